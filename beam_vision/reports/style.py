"""The style sheet of a report; inline, no font or picture from elsewhere."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f7f7f5; --card: #ffffff; --ink: #1b1d1f; --soft: #62686e; --line: #e2e3df;
  --accent: #1f6f78; --accent-soft: #d5e8e8; --bad: #b3361b; --bad-soft: #f8e3dc; --track: #ecede9;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15181a; --card: #1d2124; --ink: #e8e9e6; --soft: #9ba3a8; --line: #31373b;
    --accent: #6dc1c4; --accent-soft: #22464a; --bad: #ff8f70; --bad-soft: #46251c; --track: #2a2f33;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 72px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; text-wrap: balance; }
h2 { font-size: 20px; margin: 56px 0 4px; letter-spacing: -0.005em; }
h3 { font-size: 15px; margin: 0; font-weight: 600; overflow-wrap: anywhere; }
p { margin: 0 0 12px; max-width: 92ch; }
.soft, .lead, figcaption { color: var(--soft); }
td.bars { padding-top: 13px; width: 300px; }
.small { font-size: 13px; }
.lead { margin-bottom: 16px; }
.mono, code {
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: 12.5px;
}
.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 20px 0 0; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px; }
.scroll { overflow-x: auto; }

.account { margin: 24px 0 0; display: flex; flex-wrap: wrap; align-items: baseline; gap: 8px 18px; }
.account b { font-size: 34px; line-height: 1.15; font-weight: 650; font-variant-numeric: tabular-nums; }
.account .sign { font-size: 24px; color: var(--soft); }
.account .ok { margin-left: auto; color: var(--accent); font-weight: 600; }
.account .off { margin-left: auto; color: var(--bad); font-weight: 600; }
.bad { color: var(--bad); }
.figures {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin-top: 12px;
}
.figures .card { padding: 12px 16px; }
.figures b { display: block; font-size: 20px; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.figures span { color: var(--soft); font-size: 13px; }

table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; font-size: 13px; color: var(--soft); }
th, td { padding: 8px 12px 8px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
th:last-child, td:last-child { padding-right: 0; }
th.num { text-align: right; }
svg { display: block; max-width: 100%; }
svg text { fill: var(--ink); font-size: 12px; }
svg .bar { fill: var(--accent); }
svg .track { fill: var(--track); }

details { margin-top: 12px; }
summary { cursor: pointer; color: var(--accent); }
pre {
  margin: 8px 0 0; padding: 10px 12px; background: var(--track); border-radius: 8px;
  white-space: pre-wrap; overflow-wrap: anywhere;
}

.sheets { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 500px), 1fr)); gap: 14px; }
.sheet header { display: flex; align-items: baseline; gap: 10px; margin-bottom: 10px; }
.sheet header .soft { margin-left: auto; font-size: 13px; white-space: nowrap; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)); gap: 12px 10px; }
.sheet .grid { grid-template-columns: repeat(5, 1fr); }
figure { margin: 0; min-width: 0; }
.pic {
  display: flex; aspect-ratio: 1; border-radius: 6px; overflow: hidden; background: var(--track);
  align-items: center; justify-content: center; color: var(--soft); font-size: 11px;
}
.pic img { width: 100%; height: 100%; object-fit: contain; display: block; }
.wrong .pic { outline: 2px solid var(--bad); outline-offset: 1px; }
figcaption { font-size: 12px; line-height: 1.35; margin-top: 4px; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); font-weight: 600; }
.wrong figcaption b { color: var(--bad); }

.query .grid { grid-template-columns: repeat(10, 1fr); gap: 12px 8px; align-content: center; }
.query { display: grid; grid-template-columns: 132px 1fr; gap: 20px; margin-bottom: 14px; }
.query > figure .pic { outline: 2px solid var(--accent); outline-offset: 1px; }
.chip {
  display: inline-block; padding: 1px 8px; border-radius: 99px; font-size: 12px;
  background: var(--track);
}
.reason {
  display: grid; grid-template-columns: 190px 1fr; gap: 8px 20px; padding: 12px 0;
  border-bottom: 1px solid var(--line);
}
.reason:last-child { border-bottom: 0; }
.reason ul { margin: 0; padding: 0; list-style: none; }
.reason li { margin-bottom: 6px; overflow-wrap: anywhere; }
.facts {
  display: grid; gap: 14px; margin-top: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr));
}
.facts dl {
  display: grid; grid-template-columns: minmax(110px, auto) 1fr; gap: 4px 16px; margin: 8px 0 0;
  font-size: 13.5px;
}
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
footer { margin-top: 56px; color: var(--soft); font-size: 13px; }

.beside { display: grid; grid-template-columns: auto minmax(240px, 1fr); gap: 20px 36px; font-size: 14px; }
.beside > div { min-width: 0; }

@media (max-width: 1000px) {
  .query .grid { grid-template-columns: repeat(5, 1fr); }
  .beside { grid-template-columns: 1fr; }
}
@media (max-width: 640px) {
  main { padding: 24px 16px 48px; }
  h1 { font-size: 24px; }
  .account { gap: 4px 8px; }
  .account b { font-size: 21px; }
  .account .sign { font-size: 18px; }
  .grid, .sheet .grid, .query .grid { gap: 10px 7px; }
  figcaption { font-size: 11px; }
  .account .ok, .account .off { margin-left: 0; width: 100%; }
  .query { grid-template-columns: 1fr; gap: 14px; }
  .query > figure { max-width: 140px; }
  .reason { grid-template-columns: 1fr; }
  .card { padding: 14px; }
  .hide-small { display: none; }
}
@media print { body { background: #fff; } .card { break-inside: avoid; } }
"""
