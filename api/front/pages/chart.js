// A line chart in SVG: a few series over the last minutes, and their values where the pointer is.
const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 110;
const FOOT = 16; // for the times
const TOP = 8;
const LEAST_MS = 60_000; // that the time axis shows

function draw(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** The next number above that is easy to read: 1, 2 or 5 with zeros. */
function rounded(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value) * power;
}

export class Chart {
  /** `series`: [{field, label}] of the points; `format` writes a value; `least`: the smallest top of the axis. */
  constructor(place, title, series, format, least) {
    this.series = series;
    this.format = format;
    this.least = least;
    this.points = [];
    this.pointed = null;
    this.figures = series.map(() => document.createElement("b"));
    const legend = document.createElement("p");
    legend.className = "legend";
    series.forEach(({ label }, index) => {
      const entry = document.createElement("span");
      entry.className = `series-${index}`;
      entry.append(this.figures[index], ` ${label}`);
      legend.append(entry);
    });
    const heading = document.createElement("h3");
    heading.textContent = title;
    this.svg = draw("svg", { role: "img", "aria-label": title, height: HEIGHT });
    place.append(heading, legend, this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(() => this.redraw()).observe(this.svg);
  }

  show(points) {
    this.points = points;
    this.redraw();
  }

  point(x) {
    this.pointed = x;
    this.redraw();
  }

  redraw() {
    const width = this.svg.clientWidth;
    if (!width) return;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const end = this.points.at(-1)?.moment ?? 0;
    const span = Math.max(LEAST_MS, end - (this.points[0]?.moment ?? 0));
    const values = this.points.flatMap((point) => this.series.map(({ field }) => point[field] ?? 0));
    const top = rounded(Math.max(this.least, ...values));
    const x = (moment) => width - ((end - moment) / span) * width;
    const y = (value) => HEIGHT - FOOT - (value / top) * (HEIGHT - FOOT - TOP);
    const chosen =
      this.pointed === null
        ? this.points.at(-1)
        : this.points.reduce(
            (best, point) =>
              Math.abs(x(point.moment) - this.pointed) < Math.abs(x(best.moment) - this.pointed)
                ? point
                : best,
            this.points[0],
          );
    const parts = [
      draw("line", { class: "grid", x1: 0, x2: width, y1: y(top), y2: y(top) }),
      draw("line", { class: "axis", x1: 0, x2: width, y1: y(0), y2: y(0) }),
    ];
    this.series.forEach(({ field }, index) => {
      for (const run of this.runs(field)) {
        const line = run.map((point) => `${x(point.moment).toFixed(1)},${y(point[field]).toFixed(1)}`);
        if (index === 0)
          parts.push(
            draw("polygon", {
              class: "area",
              points: `${x(run[0].moment)},${y(0)} ${line.join(" ")} ${x(run.at(-1).moment)},${y(0)}`,
            }),
          );
        if (run.length === 1)
          parts.push(
            draw("circle", { class: `series-${index}`, cx: x(run[0].moment), cy: y(run[0][field]), r: 2 }),
          );
        else parts.push(draw("polyline", { class: `series-${index}`, points: line.join(" ") }));
      }
    });
    if (this.pointed !== null && chosen)
      parts.push(
        draw("line", { class: "pointed", x1: x(chosen.moment), x2: x(chosen.moment), y1: TOP, y2: y(0) }),
      );
    parts.push(
      draw("text", { x: 0, y: y(top) + 12 }, this.format(top)),
      draw("text", { x: 0, y: HEIGHT - 3 }, `${Math.round(span / 60_000)} min ago`),
      draw("text", { x: width, y: HEIGHT - 3, "text-anchor": "end" }, "now"),
    );
    this.svg.replaceChildren(...parts);
    this.series.forEach(({ field }, index) => {
      const value = chosen?.[field];
      this.figures[index].textContent = value === undefined || value === null ? "–" : this.format(value);
    });
  }

  /** The points in a row that have a value: a line has a gap where there was nothing to measure. */
  runs(field) {
    const runs = [[]];
    for (const point of this.points) {
      if (point[field] !== null) runs.at(-1).push(point);
      else if (runs.at(-1).length) runs.push([]);
    }
    return runs.filter((run) => run.length);
  }
}
