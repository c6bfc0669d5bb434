"""Sessions in processes of their own: what crashes, hangs or leaks there stays there."""
