"""The style of a streaming job's page: lanes of cameras, states, lines of rollouts, cells of counts."""

STATES = ("ok", "silent", "frozen", "black", "blurred", "skewed")
"""States that have a colour of their own; any other is drawn as ``other``."""

CSS = """
:root { --rows: #1f6f78; --gated: #bcd9d8; --failed: #d9603f; --other: #8a6d1c; --dark: #23282b; }
@media (prefers-color-scheme: dark) {
  :root { --rows: #57b0b4; --gated: #2c585c; --failed: #ff8f70; --other: #d0b055; --dark: #0a0c0d; }
}
.lanes { min-width: 720px; width: 100%; height: auto; }
.lanes .name { font-size: 14px; font-weight: 650; }
.lanes .fact, .lanes .tick, .spread .tick, .cells .tick { fill: var(--soft); font-size: 11px; }
.lanes .rule, .spread .rule { stroke: var(--line); stroke-width: 1; fill: none; }
.rows { fill: var(--rows); }
.gated { fill: var(--gated); }
.failed { fill: var(--failed); }
.lanes .mark { stroke: var(--failed); stroke-width: 1.6; }
.lanes .swap { stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 4 3; }
.lanes .refused { stroke: var(--bad); stroke-width: 1.2; stroke-dasharray: 1.5 3; }
.lanes .said { font-size: 11.5px; font-weight: 600; }
.lanes .said.no { fill: var(--bad); }
.state-ok { fill: var(--accent-soft); }
.state-silent { fill: var(--soft); }
.state-frozen { fill: #4a7fd4; }
.state-black { fill: var(--dark); stroke: var(--soft); stroke-width: 0.8; }
.state-blurred { fill: #c9a227; }
.state-skewed { fill: #9a6fc9; }
.state-other { fill: var(--other); }
.lanes .state { fill: #fff; font-size: 10.5px; font-weight: 600; }
.lanes .state.on-ok { fill: var(--soft); font-weight: 400; }
.keys { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 10px 0 0; font-size: 13px; }
.keys span { display: inline-flex; align-items: center; gap: 6px; }
.multiples {
  display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr));
  margin-bottom: 14px;
}
.multiples header { display: flex; align-items: baseline; gap: 10px; margin-bottom: 6px; }
.multiples header .soft { margin-left: auto; font-size: 13px; }
.spread { width: 100%; height: auto; }
.spread .band { fill: var(--accent-soft); }
.spread .p50 { stroke: var(--rows); stroke-width: 1.4; fill: none; }
.spread .p95 { stroke: var(--rows); stroke-width: 2.4; fill: none; }
.beside-cards { display: flex; flex-wrap: wrap; gap: 14px; }
.beside-cards .card { max-width: 100%; }
.stacked > * + * { margin-top: 14px; }
.cells { max-width: none; }
.cells text { font-size: 11.5px; }
td .chip { margin: 0 4px 2px 0; white-space: nowrap; }
.chip.off { background: var(--bad-soft); color: var(--bad); }
.chip.on { background: var(--accent-soft); color: var(--ink); }
.broken { display: grid; grid-template-columns: 96px 1fr; gap: 4px 14px; }
.broken .pic { width: 96px; font-size: 10px; text-align: center; }
.reason li.broken { margin-bottom: 12px; }
"""
