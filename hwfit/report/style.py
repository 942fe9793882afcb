"""Style: the page's CSS and its few lines of script (nothing is loaded from anywhere)."""

CSS = """
:root { color-scheme: light; --ink: #1a1a1a; --quiet: #5c5c5c; --line: #d9d9d9; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1320px; padding: 20px 24px 48px; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.55rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 40px 0 4px; padding-top: 12px; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 12px 0 4px; }
p { margin: 4px 0 10px; max-width: 75ch; }
.quiet, figcaption { color: var(--quiet); font-size: .88rem; }
nav { margin: 10px 0; font-size: .9rem; } nav a { margin-right: 14px; color: #11529a; white-space: nowrap; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(158px, 1fr)); gap: 12px; margin: 18px 0; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--quiet); font-size: .85rem; }
.verdict li { margin: 2px 0; } .verdict { padding-left: 20px; }
.key { font-size: .88rem; color: var(--quiet); max-width: none; line-height: 2; }
.key > span.item { white-space: nowrap; margin-right: 12px; } .key svg { vertical-align: middle; }
.numbers { display: none; }
.swatch { display: inline-block; min-width: 22px; height: 18px; padding: 0 4px; margin: 0 5px 0 0; font-size: 12px;
  line-height: 18px; text-align: center; border: 1px solid #aaa; vertical-align: middle; }
.halves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 8px 32px; }
.halves > * { min-width: 0; } .plot { overflow: hidden; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.rows { font-size: .85rem; line-height: 1.3; }
.rows th, .rows td { padding: 5px 6px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
.rows tr:first-child th { white-space: normal; vertical-align: bottom; border-bottom: 2px solid #888; }
.rows .left, .rows th:first-child { text-align: left; }
.rows tr > :first-child { position: sticky; left: 0; background: #fff; z-index: 1; font-weight: 600;
  white-space: normal; min-width: 130px; max-width: 190px; }
.rows tr.picked td, .rows tr.picked th { font-weight: 700; background: #eef4fa; }
.maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 500px), 1fr)); gap: 22px 36px; }
figure { margin: 0; min-width: 0; }
.map figcaption { min-height: 2.7em; } .map figcaption b { color: var(--ink); }
.map table { width: 100%; table-layout: fixed; border-collapse: separate; border-spacing: 1px; }
.map th { width: 46px; font-weight: 400; font-size: 12px; text-align: right; padding-right: 5px; }
.map td { height: 19px; padding: 0; text-align: center; overflow: hidden; }
.map td i { font: 10px/19px system-ui, sans-serif; }
.map .index td { font-size: 10px; color: var(--quiet); overflow: visible; white-space: nowrap; height: auto; }
.gone { background: repeating-linear-gradient(45deg, #fff 0 3px, #cfcfcf 3px 4px); }
.channel { background-image: linear-gradient(45deg, #fff 4px, transparent 4px); }
.bar { margin: 5px 0; } .bar div { display: flex; justify-content: space-between; font-size: .85rem; }
.bar b { font-weight: 400; } .bar i { font-style: normal; color: var(--quiet); }
.bar p { display: flex; height: 16px; margin: 0; max-width: none; border: 1px solid #888; }
.bar span { border-right: 1px solid #fff; }
.stages { width: 100%; max-width: 640px; font-size: .9rem; }
.stages th { text-align: left; font-weight: 400; padding: 2px 10px 2px 0; white-space: nowrap; }
.stages td:nth-child(2) { width: 100%; } .stages td div { height: 12px; background: #3d85bf; }
.stages td:last-child { white-space: nowrap; text-align: right; padding-left: 10px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 16px; font-size: .88rem; margin: 8px 0; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
details { margin: 12px 0; } summary { cursor: pointer; font-size: .9rem; color: #11529a; }
@media (max-width: 700px) {
  body { padding: 14px 12px 32px; } h1 { font-size: 1.25rem; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 8px; } .tile { padding: 8px 10px; } .tile b { font-size: 1.25rem; }
  .numbers { display: block; line-height: 1.6; } .rows tr > :first-child { min-width: 104px; }
  .map td i { display: none; } dl { grid-template-columns: 1fr; } dd { margin-bottom: 5px; }
}
@page { size: A4; margin: 12mm; }
@media print {
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  html { font-size: 12px; } body { max-width: none; padding: 0; font-size: 12px; }
  nav { display: none; } p { max-width: none; } .tiles { grid-template-columns: repeat(5, 1fr); gap: 6px; }
  .scroll { overflow: visible; } .rows { font-size: 6.6px; } .rows th, .rows td { padding: 2px 3px; }
  .rows tr > :first-child { min-width: 60px; }
  .rows td { white-space: normal; } .map td i { display: none; }
  h2 { margin-top: 20px; } h2, h3, .quiet, .key { break-after: avoid; }
  .plot, figure, .bar, .tile, tr { break-inside: avoid; }
  .maps, .halves { grid-template-columns: 1fr 1fr; }
}
"""

# Draws every figure. Narrow pages show the rows' numbers beside the points, wide ones their names; a printed page
# gets plots as wide as the paper.
SCRIPT = """
const plots = [...document.querySelectorAll('.plot')].map(place => {
  const source = place.querySelector('script');
  source.remove();
  return {place, ...JSON.parse(source.textContent)};
});
function draw({place, data, layout}, width = place.clientWidth) {
  const notes = layout.meta && layout.meta[width < 700 ? 'narrow' : 'wide'];
  const change = {width, dragmode: width < 500 ? false : 'zoom', ...(notes && {annotations: notes})};
  return Plotly.react(place, data, {...layout, ...change}, {displayModeBar: false});
}
const drawAll = () => plots.forEach(plot => draw(plot));
let waiting;
addEventListener('resize', () => { clearTimeout(waiting); waiting = setTimeout(drawAll, 150); });
addEventListener('beforeprint', () => plots.forEach(plot => draw(plot, plot.place.closest('.halves') ? 335 : 702)));
addEventListener('afterprint', drawAll);
drawAll();
"""
