// Headers of the tables marked so become buttons; without this they stand in the report's order.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" };
      const direction = next[header.getAttribute("aria-sort") || "none"];
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      if (direction !== "none") header.setAttribute("aria-sort", direction);
      const sign = direction === "descending" ? -1 : 1;
      const value = (row) => row.cells[header.cellIndex].dataset.value;
      const rows = direction === "none" ? original : [...original].sort((a, b) => {
        const [left, right] = [value(a), value(b)];
        if (!left || !right) return left ? -1 : right ? 1 : 0;
        const difference = Number(left) - Number(right);
        return sign * (Number.isNaN(difference) ? left.localeCompare(right) : difference);
      });
      body.append(...rows);
    });
  }
}
