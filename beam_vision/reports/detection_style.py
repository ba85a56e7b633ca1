"""The style of pictures with boxes and of curves.

Colours of boxes lie on photographs, so they are the same on a light and a dark page. Blue, yellow and
orange-red stay apart for every kind of colour blindness, and lines differ too: solid, dashed, with a corner.
"""

CSS = """
.scenes { display: flex; flex-wrap: wrap; gap: 18px 12px; align-items: flex-start; }
.scene { scroll-margin-top: 12px; }
.scene .shot { display: block; cursor: zoom-in; }
.scene svg, .blank { width: 100%; height: auto; border-radius: 6px; overflow: hidden; }
.scene figcaption b, .scene figcaption span { display: block; }
.blank {
  display: grid; place-content: center; padding: 12px; text-align: center; font-size: 12px;
  color: var(--soft); border: 1px dashed var(--line); overflow-wrap: anywhere;
  background: repeating-linear-gradient(135deg, var(--track) 0 9px, var(--card) 9px 18px);
}
.blank b { display: block; color: var(--ink); }
.blank > span { background: var(--card); border-radius: 6px; padding: 6px 10px; }

.box rect { fill: none; pointer-events: all; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
.box .under { stroke: #000; stroke-opacity: 0.6; stroke-width: 4px; }
.box .line { stroke: var(--c); stroke-width: 2px; }
.corner { fill: var(--c); pointer-events: none; }
.labels-large { display: none; }
.plate rect { fill: var(--c); stroke: #000; stroke-opacity: 0.45; stroke-width: 0.6px; }
.plate text { fill: #0b0d0e; font-size: 11.5px; font-weight: 650; }
.plate { pointer-events: none; }
.hit { --c: #56c1ff; }
.detection { --c: #c3a6ff; }
.miss { --c: #ffe14a; }
.miss .line { stroke-dasharray: 6 4; }
.false-alarm { --c: #ff7a3d; }
.truth { --c: #ffffff; }
.truth .line { stroke-width: 1.4px; }
.crowd { --c: #d4d8da; }
.crowd .line { stroke-dasharray: 1.5 3.5; stroke-linecap: round; }
.c0 { --c: #56c1ff; } .c1 { --c: #ffb02e; } .c2 { --c: #45e0a8; } .c3 { --c: #ffe14a; }
.c4 { --c: #ff9ad5; } .c5 { --c: #ff7a3d; } .c6 { --c: #c3a6ff; } .c7 { --c: #d3f06a; }

.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; }
.legend span { display: inline-flex; align-items: center; gap: 7px; }
.legend svg:not(.curve) { background: #5d666b; border-radius: 4px; }

.scene .close { display: none; }
.scene:target .shot {
  position: fixed; inset: 0; z-index: 8; padding: 12px; background: rgba(10, 12, 13, 0.94);
  display: grid; place-items: center; cursor: default;
}
.scene:target svg { width: 100%; height: 100%; max-height: calc(100vh - 24px); border-radius: 0; }
.scene:target .close {
  display: block; position: fixed; z-index: 9; top: 12px; right: 12px; padding: 4px 14px;
  border-radius: 99px; background: #fff; color: #111; font-size: 14px;
}

.metrics .card:first-child { grid-column: span 2; }
.metrics .card:first-child b { font-size: 34px; line-height: 1.15; }
.metrics .card span { display: block; }
.metrics .card b + span { color: var(--ink); font-weight: 600; }
.beneath { margin: 8px 0 0; }
.part { margin-top: 28px; }
.part > h3 { font-size: 17px; margin-bottom: 4px; }
td.short { width: 140px; padding-top: 14px; }

.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 12px; }
.curves .card { padding: 12px 14px; }
.curves header { display: flex; align-items: baseline; gap: 10px; margin-bottom: 6px; font-size: 13px; }
.curves header .soft { margin-left: auto; white-space: nowrap; font-variant-numeric: tabular-nums; }
.curves + *, .legend + .curves { margin-top: 10px; }
.curve { width: 100%; height: auto; }
.legend .curve { width: 34px; }
.curve text { font-size: 10.5px; fill: var(--soft); }
.curve .rule { stroke: var(--line); fill: none; }
.curve .line { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; }
.curve .second { stroke: var(--bad); stroke-width: 1.6; stroke-dasharray: 5 3; }
.curve .third { stroke: var(--soft); stroke-width: 1.4; stroke-dasharray: 1.5 3; }
.curve .area { fill: var(--accent-soft); opacity: 0.55; }
.mean { border-color: var(--accent); }

@media (min-width: 900px) {
  .scene:target .labels { display: none; }
  .scene:target .labels-large { display: inline; }
}
@media (min-width: 1000px) { .metrics { grid-template-columns: repeat(5, 1fr); } }
@media print { .scene { break-inside: avoid; } }
"""
