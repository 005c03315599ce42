"""The gallery's page, for Jinja."""

from __future__ import annotations

MARK = '<meta name="generator" content="bridge-pets zoo">'
"""By which a page of ours is known, among its first bytes."""

_STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c2126; --soft: #59636e; --line: #d5dae0; --paper: #f4f6f8; --card: #ffffff; --mark: #0b5cad; --code: #eef1f4;
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --soft: #a0abb6; --line: #3a434c; --paper: #14181c; --card: #1c2228; --mark: #7db8f5; --code: #272f37; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 1.2rem clamp(0.7rem, 2.5vw, 2.5rem) 2rem; max-width: 84rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word;
}
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 0.5rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 0.2rem; scroll-margin-top: 0.8rem; }
h3 { font-size: 1.1rem; margin: 0; }
h3 a { color: inherit; text-decoration: none; }
h3 a:hover, h3 a:focus-visible { text-decoration: underline; }
p { margin: 0.45rem 0; }
header p, section > p { max-width: 62rem; }
.soft { color: var(--soft); font-size: 0.9rem; line-height: 1.4; }
a { color: var(--mark); }
nav dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.3rem 1rem; margin: 1rem 0; }
nav dt { font-weight: 600; }
nav dd { margin: 0; }
nav dd a { display: inline-block; padding: 0.1rem 0.35rem; }
.cards { display: grid; grid-template-columns: minmax(0, 1fr); gap: 1rem; margin-top: 0.8rem; }
article {
  background: var(--card); border: 1px solid var(--line); border-radius: 0.5rem; padding: 0.9rem 1rem 1rem; min-width: 0;
  scroll-margin-top: 0.8rem;
}
article:target { border-color: var(--mark); box-shadow: 0 0 0 1px var(--mark); }
figure { margin: 0.6rem 0; display: flex; flex-wrap: wrap; gap: 0.4rem; }
.drawing { background: #ffffff; border-radius: 0.3rem; padding: 0.25rem; max-width: 100%; }
.drawing svg, .drawing img { display: block; max-width: 100%; height: auto; }
code, pre { font: 0.85rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
code { background: var(--code); border-radius: 0.2rem; padding: 0.05rem 0.25rem; }
pre { background: var(--code); border-radius: 0.3rem; padding: 0.4rem 0.6rem; margin: 0.35rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
pre code { background: none; padding: 0; font-size: inherit; }
dl.facts { display: grid; grid-template-columns: 6.5rem 1fr; gap: 0.35rem 0.8rem; margin: 0.5rem 0 0; }
.facts dt { color: var(--soft); font-size: 0.9rem; }
.facts dd { margin: 0; min-width: 0; }
.facts dd > pre:first-child { margin-top: 0; }
.wrong { border-left: 3px solid #c2410c; padding-left: 0.6rem; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
footer { margin-top: 1.5rem; color: var(--soft); font-size: 0.9rem; }
@media (min-width: 72rem) {
  .drawn { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 0 1.5rem; align-items: start; }
  .seen { max-width: 42.5rem; }
  .drawn dl.facts { grid-template-columns: 1fr; gap: 0.1rem; margin-top: 0.3rem; }
  .drawn .facts dd { margin-bottom: 0.4rem; }
}
@media (max-width: 42rem) {
  nav dl, dl.facts { grid-template-columns: 1fr; gap: 0.1rem; }
  .facts dd { margin-bottom: 0.5rem; }
  nav dd { margin: 0 0 0.5rem -0.35rem; }
}
@page { size: A4; margin: 14mm 12mm; }
@media print {
  :root { --ink: #000000; --soft: #3d444b; --line: #b5bcc4; --paper: #ffffff; --card: #ffffff; --mark: #000000; --code: #f2f4f6; }
  body { padding: 0; max-width: none; font-size: 10pt; }
  .cards { display: block; }
  article { break-inside: avoid; margin-bottom: 0.8rem; }
  h2 { break-after: avoid; }
  figure { flex-wrap: nowrap; }
  .drawing { flex: 0 1 auto; min-width: 0; }
  .drawn { display: block; }
}
"""  # noqa: E501

TEMPLATE = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{MARK}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{{{{ title }}}} of bridge-pets</title>
<style>{_STYLE}</style>
</head>
"""  # noqa: E501
TEMPLATE += """<body>
<header>
<h1>{{ title }} of bridge-pets</h1>
<p>{{ about }}</p>
<p class="soft">{{ how }}</p>
<nav aria-label="Cards">
<dl>
{% for name, about, members in groups %}
<dt><a href="#group-{{ loop.index }}">{{ name }}</a></dt>
<dd>
{% for card in members %}
<a href="#{{ card.anchor }}">{{ card.title }}</a>
{% endfor %}
</dd>
{% endfor %}
</dl>
</nav>
</header>
<main>
{% for name, about, members in groups %}
<section aria-labelledby="group-{{ loop.index }}">
<h2 id="group-{{ loop.index }}">{{ name }}</h2>
<p class="soft">{{ about }}</p>
<div class="cards">
{% for card in members %}
<article id="{{ card.anchor }}" aria-labelledby="{{ card.anchor }}-title">
<h3 id="{{ card.anchor }}-title"><a href="#{{ card.anchor }}">{{ card.title }}</a></h3>
{% if card.description %}
<p>{{ card.description }}</p>
{% endif %}
<div{% if card.drawings %} class="drawn"{% endif %}>
<div class="seen">
{% if card.drawings %}
<figure>
{% for drawing in card.drawings %}
<div class="drawing">
<span class="hidden" id="{{ drawing.name }}-alt">{{ drawing.alt }}</span>
{{ picture(card, loop.index0) | safe }}
</div>
{% endfor %}
</figure>
{% endif %}
{% if card.about %}
<p class="soft">{{ card.about }}</p>
{% endif %}
{% if card.reason %}
<p class="wrong">Not all of it can be drawn: {{ card.reason }}</p>
{% endif %}
</div>
<dl class="facts">
{% if card.purpose %}
<dt>What it is for</dt>
<dd>
{%- for text, is_code in card.purpose | pieces -%}
{% if is_code %}<code>{{ text }}</code>{% else %}{{ text }}{% endif %}
{%- endfor -%}
</dd>
{% endif %}
{% if card.formula %}
<dt>Formula</dt>
<dd><pre>
{%- for line in card.formula %}
{{ line }}
{% endfor -%}
</pre></dd>
{% endif %}
<dt>Parameters</dt>
<dd>
{% for parameter in card.parameters %}
<code>{{ parameter }}</code>
{% else %}
none
{% endfor %}
</dd>
<dt>In Python</dt>
<dd><pre><code>{{ card.python }}</code></pre></dd>
<dt>In a shell</dt>
<dd><pre><code>{{ card.console }}</code></pre></dd>
</dl>
</div>
</article>
{% endfor %}
</div>
</section>
{% endfor %}
</main>
<footer>
<p>Made by <code>bridge-pets zoo --plot</code>; everything on this page is in this one file.</p>
</footer>
</body>
</html>"""
