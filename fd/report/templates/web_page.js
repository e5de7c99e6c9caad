// A click on the head of a column sorts the table by it; another click turns the order. Empty cells stay below.
function key(cell) {
  const text = cell.textContent.trim();
  const clock = /^(\d+):(\d\d)\b/.exec(text);
  if (clock) return 60 * clock[1] + Number(clock[2]);
  return /^[+-]?\d/.test(text) ? parseFloat(text.replaceAll(",", "")) : text;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return a.localeCompare(b, "en", { numeric: true });
}

for (const table of document.querySelectorAll(".table table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const turn = head.ariaSort === "descending" ? 1 : -1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.ariaSort = turn === 1 ? "ascending" : "descending";
      const keyed = [...table.tBodies[0].rows].map((row) => [key(row.cells[column]), row]);
      keyed.sort(([a], [b]) => (a === "") - (b === "") || turn * compare(a, b));
      table.tBodies[0].append(...keyed.map(([, row]) => row));
    });
  });
}
