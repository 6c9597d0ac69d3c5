"""The report as one HTML file that needs nothing else: no network, no other file, no script but its own."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from hf_sft.analysis.page_parts import section_html
from hf_sft.analysis.section import Section
from hf_sft.tables import escaped

STYLE = """
.hf-sft-report{--ground:#fff;--ink:#1b1b1b;--faint:#666;--line:#d9d9d9;--panel:#f6f7f9;--accent:#0059a6;
 color:var(--ink);background:var(--ground);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;
 overflow-wrap:anywhere}
.hf-sft-report main{max-width:1080px;margin:0 auto;padding:16px}
.hf-sft-report h1{font-size:1.5em;margin:.2em 0}.hf-sft-report h2{font-size:1.2em;margin:0;display:inline}
.hf-sft-report nav{display:flex;flex-wrap:wrap;gap:4px 14px;margin:10px 0 18px}
.hf-sft-report a{color:var(--accent)}
.hf-sft-report details.section{border-top:1px solid var(--line);padding:12px 0}
.hf-sft-report summary{cursor:pointer;padding:4px 0}
.hf-sft-report .sentence{max-width:76ch;margin:8px 0 12px}
.hf-sft-report .failed h2{color:#b3261e}
.hf-sft-report figure{margin:18px 0}
.hf-sft-report figure img{max-width:100%;height:auto;display:block}
.hf-sft-report figcaption,.hf-sft-report .caption,.hf-sft-report .more,.hf-sft-report .none,.hf-sft-report .notes
 {color:var(--faint);font-size:.92em;max-width:76ch;margin:6px 0}
.hf-sft-report .caption{color:var(--ink);break-after:avoid;font-weight:600;font-size:.95em}
.hf-sft-report .table{margin:20px 0}
.hf-sft-report .scroll{overflow-x:auto;border:1px solid var(--line);border-radius:4px}
.hf-sft-report table{border-collapse:collapse;font-size:.9em;width:100%}
.hf-sft-report th,.hf-sft-report td{padding:5px 9px;text-align:left;vertical-align:top;
 border-bottom:1px solid var(--line);background:none;color:inherit;overflow-wrap:break-word}
.hf-sft-report td.s{white-space:nowrap}.hf-sft-report td.x{min-width:15em}
.hf-sft-report th{background:var(--panel)}
.hf-sft-report th button{all:unset;cursor:pointer;font-weight:600;white-space:nowrap}
.hf-sft-report th button:focus-visible{outline:2px solid var(--accent)}
.hf-sft-report th[aria-sort=ascending] button::after{content:" \\2191"}
.hf-sft-report th[aria-sort=descending] button::after{content:" \\2193"}
.hf-sft-report .n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.hf-sft-report .i{color:var(--faint);font-size:.9em}
.hf-sft-report .thumb{max-width:96px;image-rendering:pixelated;display:block}
.hf-sft-report .t{border-radius:3px;padding:0 2px;print-color-adjust:exact;-webkit-print-color-adjust:exact}
.hf-sft-report dl.figures{display:flex;flex-wrap:wrap;gap:8px;margin:12px 0}
.hf-sft-report dl.figures div{background:var(--panel);border-radius:4px;padding:6px 12px}
.hf-sft-report dt{color:var(--faint);font-size:.82em}.hf-sft-report dd{margin:0;font-weight:600}
.hf-sft-report .cloud svg{width:100%;max-width:760px;border:1px solid var(--line);border-radius:4px;display:block}
.hf-sft-report circle{opacity:.75;stroke:var(--ground);stroke-width:.8;cursor:pointer}
.hf-sft-report circle:focus,.hf-sft-report circle.on{stroke:var(--ink);stroke-width:2;opacity:1;outline:none}
.hf-sft-report .legend span{margin-right:14px;white-space:nowrap}
.hf-sft-report .legend i{display:inline-block;width:10px;height:10px;border-radius:5px;margin-right:5px;
 print-color-adjust:exact}
.hf-sft-report .told{min-height:1.5em;max-width:76ch;margin:4px 0}
@media (prefers-color-scheme:dark){
.hf-sft-report{--ground:#1a1a1a;--ink:#e8e8e8;--faint:#a2a2a2;--line:#3b3b3b;--panel:#262626;--accent:#7db7f0;
 color-scheme:dark}
.hf-sft-report .failed h2{color:#ff8a80}
.hf-sft-report circle[fill="#000000"]{fill:#fff}
.hf-sft-report figure img:not(.photo){filter:invert(.9) hue-rotate(180deg)}}
@media (max-width:560px){.hf-sft-report main{padding:10px}.hf-sft-report{font-size:14px}}
@media print{.hf-sft-report{--ground:#fff;--ink:#000;--faint:#444;--line:#bbb;--panel:#f2f2f2;color-scheme:light}
.hf-sft-report figure img:not(.photo){filter:none}.hf-sft-report .scroll{overflow:visible}
.hf-sft-report figure,.hf-sft-report tr{break-inside:avoid}.hf-sft-report nav{display:none}
.hf-sft-report details::details-content{content-visibility:visible;height:auto}}
"""

SCRIPT = """
"use strict";
function sortBy(head){
 const table=head.closest("table"),body=table.tBodies[0],at=[...head.parentNode.children].indexOf(head);
 const down=head.getAttribute("aria-sort")==="ascending",numeric=head.classList.contains("n");
 const key=row=>{const v=row.cells[at].dataset.v,n=parseFloat(v);return numeric?(Number.isNaN(n)?-Infinity:n):v};
 const rows=[...body.rows].sort((a,b)=>{const x=key(a),y=key(b);
  const order=numeric?(x<y?-1:x>y?1:0):String(x).localeCompare(String(y));return down?-order:order});
 for(const other of head.parentNode.children)other.removeAttribute("aria-sort");
 head.setAttribute("aria-sort",down?"descending":"ascending");body.append(...rows)}
document.addEventListener("click",event=>{const button=event.target.closest(".hf-sft-report th button");
 if(button)sortBy(button.parentNode)});
function tell(event){const point=event.target.closest&&event.target.closest(".cloud circle");if(!point)return;
 const figure=point.closest(".cloud");for(const other of figure.querySelectorAll(".on"))other.classList.remove("on");
 point.classList.add("on");figure.querySelector(".told").textContent=point.dataset.t}
for(const kind of ["mouseover","click","focusin"])document.addEventListener(kind,tell);
let folded=[];
window.addEventListener("beforeprint",()=>{folded=[...document.querySelectorAll("details:not([open])")];
 for(const part of folded)part.open=true});
window.addEventListener("afterprint",()=>{for(const part of folded)part.open=false});
"""


def page(title: str, facts: Sequence[str], sections: Sequence[Section]) -> str:
    """The whole file. Its policy lets no script run but its own, and nothing be fetched."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escaped(title)}</title>"
        "<style>html{background:#fff}body{margin:0}@media (prefers-color-scheme:dark){html{background:#1a1a1a}}"
        f"{STYLE}</style></head><body>{_body(title, facts, sections)}<script>{SCRIPT}</script></body></html>\n"
    )


def fragment(title: str, facts: Sequence[str], sections: Sequence[Section]) -> str:
    """The same for a notebook, in which no script runs: nothing sorts, all else is there."""
    return f"<style>{STYLE}</style>{_body(title, facts, sections)}"


def _body(title: str, facts: Sequence[str], sections: Sequence[Section]) -> str:
    links = "".join(f'<a href="#{escaped(one.name)}">{escaped(one.title)}</a>' for one in sections)
    told = "".join(f"<li>{escaped(fact)}</li>" for fact in facts)
    return (
        f'<div class="hf-sft-report"><main><h1>{escaped(title)}</h1>'
        f'<ul class="notes">{told}</ul><nav>{links}</nav>{"".join(map(section_html, sections))}</main></div>'
    )
