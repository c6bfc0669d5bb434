"""What runs on the device: the standard library alone, Python 3.8 and up, no package of ours.

It travels as one file (``edge.deploy.program``), is sent over SSH for each deployment, and stays on
the device to start what a power cut left half done.
"""
