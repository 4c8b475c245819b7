"use strict";
/* Tables that sort by a click on the head of a column. */
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const number = cell => { const x = parseFloat(cell.textContent.replace("\u2212", "-")); return isNaN(x) ? null : x; };
  heads.forEach((head, i) => {
    const cells = [...body.rows].map(row => row.cells[i]);
    const text = !cells.some(cell => /^[-\\d]/.test(cell.textContent)) || i === 0;
    if (text) [head, ...cells].forEach(cell => cell.classList.add("text"));
    head.firstChild.addEventListener("click", () => {
      const up = head.ariaSort === "descending" || (text && head.ariaSort !== "ascending");
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.ariaSort = up ? "ascending" : "descending";
      const compare = (a, b) => {
        if (text) return a.cells[i].textContent.localeCompare(b.cells[i].textContent) * (up ? 1 : -1);
        const [x, y] = [number(a.cells[i]), number(b.cells[i])];
        return x === null ? (y === null ? 0 : 1) : y === null ? -1 : (x - y) * (up ? 1 : -1);
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
