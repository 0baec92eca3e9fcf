// A CSV file of what is shown; a text that a spreadsheet would compute stands behind an apostrophe.

function field(value) {
  if (typeof value === "number") return Number.isNaN(value) ? "" : String(value);
  const text = String(value ?? "").replaceAll(/[\u0000-\u001f\u007f]+/g, " ");
  const safe = /^\s*[=+\-@]/.test(text) ? `'${text}` : text;
  return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

const csvText = (head, rows) => [head, ...rows].map((row) => row.map(field).join(",")).join("\r\n") + "\r\n";

export function download(name, head, rows) {
  const url = URL.createObjectURL(new Blob([csvText(head, rows)], { type: "text/csv" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
