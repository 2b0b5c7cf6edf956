// Tables of a dozen rows and more are sorted by a click on a heading: by number where cells are numbers.
const superscripts = "⁰¹²³⁴⁵⁶⁷⁸⁹";
function value(cell) {
  const text = cell.textContent.trim().replaceAll("−", "-");
  if (text.startsWith("∞")) return Infinity;
  const power = text.match(/^(-?[\d.]+)·10(⁻?)([⁰¹²³⁴⁵⁶⁷⁸⁹]+)$/);
  if (power) {
    const digits = [...power[3]].map((c) => superscripts.indexOf(c)).join("");
    return Number(power[1]) * 10 ** Number((power[2] ? "-" : "") + digits);
  }
  const number = parseFloat(text);
  return Number.isNaN(number) ? text : number;
}
function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a === "number") return -1;
  if (typeof b === "number") return 1;
  return a.localeCompare(b);
}
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("article table")) {
    const body = table.tBodies[0];
    const heads = table.tHead ? [...table.tHead.rows[0].cells] : [];
    if (!body || body.rows.length < 12 || heads.length < 3 || body.querySelector("[rowspan], [colspan]")) continue;
    heads.forEach((head, j) => {
      head.classList.add("sortable");
      head.addEventListener("click", () => {
        const rising = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", rising ? "ascending" : "descending");
        const rows = [...body.rows];
        rows.sort((a, b) => (rising ? 1 : -1) * compare(value(a.cells[j]), value(b.cells[j])));
        body.append(...rows);
      });
    });
  }
});
