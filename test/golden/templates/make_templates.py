#!/usr/bin/env python3
"""Writes cases.json: small templates of our own, rendered by Jinja2 set up as transformers does. Needs Jinja2 3.1.6 (PyPI).

Usage: make_templates.py   (in this folder)"""
import datetime
import json

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

CONTEXT = {
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi <b> & \"you\"\n"},
                 {"role": "assistant", "content": "x", "tool_calls": [{"name": "f", "arguments": {"a": 1, "b": [1.5, None, True]}}]}],
    "add_generation_prompt": True, "n": 7, "f": 2.5, "s": "Grüße, Welt", "none_value": None, "empty": [],
    "d": {"b": 2, "a": 1, "C": 3, "items": "x"}, "l": [3, 1, 2], "words": ["pear", "Apple", "fig", "apple"],
    "people": [{"name": "Ann", "age": 30, "at": {"x": 1}}, {"name": "bob", "age": 25, "at": {"x": 0}}, {"name": "Cy", "age": 30, "at": {"x": 5}}],
}

EXPRESSIONS = """
1 + 2 * 3 - 4|-7 // 2|7 // -2|-7 % 3|7 % -3|7 / 2|6 / 3|2 ** 10|-2 ** 2|2 ** -1|1.5 + 1|0.1 + 0.2|1e16|1e15|123456789012345680.0|1e-5|0.0001
5.0 // 2|-5.5 % 2|1 / 3|10 ** 17 / 3|100.0 * 1.1|1_000 + 0x10 + 0b11 + 0o17|- f|+ n|not n|true + true|n / 0|n // 0|n % 0|9223372036854775807|-0.0|3.0
1 < 2 < 3|1 < 2 > 3|1 == 1.0|true == 1|'a' < 'b'|'a' == 'a' != 'b'|[1, 2] < [1, 3]|(1, 2) == (1, 2)|[1] == (1,)|1 < 'a'|none < 1|'1' == 1
'a' in 'abc'|1 in l|'b' in d|'z' not in d|1 in 'abc'|'x' in none_value|'x' in missing|not 'a' in 'abc'|'' in ''
'a' ~ 1 ~ none ~ true ~ 1.0 ~ [1, 'x']|'a' + 1|'a' * 3|3 * 'ab'|[1, 2] * 2|[1] + [2]|(1,) + (2,)|'a' 'b' "c"
missing|missing.x|missing['x']|missing + 1|missing ~ 'x'|missing == missing2|missing is defined|missing | length|missing | default('d')|missing()|missing < 1
none_value.x|none_value['x']|none_value.x.y|none_value | default('d')|none_value | default('d', true)|'' | default('d', boolean=true)|none_value
d.a|d['a']|d.items|d.items()|d['items']|d.get('a')|d.get('z')|d.get('z', 5)|d.keys()|d.values()|d.keys() | list|d | length|d | list|d.zzz|d['zzz']|d.copy()|d.pop('a')|d.update({})|d.__class__|d.get()
l[0]|l[-1]|l[5]|l['x']|l[1:]|l[::-1]|l[:-1]|l[-2:]|l[5:1:-2]|l[::2]|l[true]|l.append(1)|l.index(2)|l.index(9)|l.count(1)|l.0|l[none_value:2]|l[::0]
s[0]|s[-1]|s[2]|s[1:5]|s[::-1]|s[::2]|s[99]|s.upper()|s.lower()|s.title()|s | title|s.capitalize()|s | capitalize|s | length|s | upper|s | list|s | reverse|s | first|s | last
' a b '.strip()|' a b '.lstrip()|' a b '.rstrip()|'xxaxx'.strip('x')|'abcba'.strip('ab')|'a,b,c'.split(',')|'a,b,c'.split(',', 1)|'a,b,c'.rsplit(',', 1)|' a  b '.split()|'a-b'.replace('-', '+')|'aaa'.replace('a', 'b', 2)|'abc'.replace('', '-')|'a'.startswith('a')|'abc'.endswith(('x', 'c'))|'abc'.find('c')|'äbc'.find('c')|'abc'.index('z')|'banana'.count('an')|'a\\nb\\r\\nc'.splitlines()|'-'.join(['a', 'b'])|'-'.join([1])|'12'.isdigit()|''.isdigit()|'abc'.islower()|'aB'.isupper()|'abc'.removeprefix('a')|'abc'.removesuffix('c')|'a b'.split(maxsplit=1)|'x'.nothing|'x'.nothing()|''.split(',')|''.split()|'abc'.split('')
l | sort|words | sort|words | sort(case_sensitive=true)|words | sort(reverse=true)|words | unique | list|l | reverse | list|l | join('-')|l | join|people | map(attribute='name') | join(', ')|people | map(attribute='at.x') | list|people | selectattr('age', 'equalto', 30) | map(attribute='name') | list|people | rejectattr('age', 'gt', 26) | list|l | select('odd') | list|l | reject('>', 1) | list|l | select | list|people | sort(attribute='age') | map(attribute='name') | list|people | sort(attribute='age', reverse=true) | map(attribute='name') | list|words | map('upper') | list|words | map('replace', 'p', 'P') | list|l | map('string') | join|l | sum|people | sum(attribute='age')|l | min|words | max|empty | first|empty | max|l | first|l | batch(2) | list|people | map(attribute='zz', default='-') | list|people | map(attribute='zz') | list|l | map('int') | length|words | select('in', ['fig']) | list
d | dictsort|d | dictsort(by='value')|d | dictsort(true)|d | items | list|d | tojson|d | tojson(indent=2)|d | tojson(sort_keys=true)|l | tojson(indent=0)|s | tojson|s | tojson(ensure_ascii=true)|'<a href="x">\\t' | tojson|none_value | tojson|1.0 | tojson|1e100 | tojson|missing | tojson|(1, 2) | tojson|{} | tojson|[] | tojson(indent=2)|{1: 2, none: 3, true: 4} | tojson|d | tojson(separators=(',', ':'))|'\\u2028😀' | tojson(ensure_ascii=true)|d.items() | tojson
'42' | int|'4.9' | int|'x' | int|'x' | int(default=-1)|'0x1f' | int(base=16)|2.9 | int|-2.9 | int|'1e3' | float|' 12 ' | int|'1_000' | int|none_value | int|l | int|2.567 | round|2.567 | round(2)|2.5 | round|3.5 | round|7 | round|2.1 | round(method='ceil')|2.15 | round(1, 'floor')|-3 | abs|1.0 | string|true | string|l | string | length
'<b>' | e|'<b>' | safe|('<b>' | safe) + '<i>'|'<i>' + ('<b>' | safe)|('<b>' | safe) ~ '<i>'|('<b>' | safe) | upper|'a\\nb' | indent|'a\\nb\\n\\nc' | indent(2, first=true)|'a\\n\\nb' | indent(2, blank=true)|'  x ' | trim|'xxaxx' | trim('x')|'a b' | replace('a', 'c')|'hello' | replace('l', 'L', 1)|5 | replace(5, 6)
1 is number|1 is integer|1.0 is float|true is boolean|true is integer|true is number|'a' is string|l is iterable|'a' is iterable|1 is iterable|missing is iterable|d is mapping|l is mapping|d is sequence|l is sequence|(l | map('string')) is sequence|3 is odd|4 is even|9 is divisibleby 3|1 is eq 1|1 is sameas 1|true is true|1 is true|false is false|none_value is none|missing is none|'abc' is lower|'x' is in 'xyz'|1 is not none|missing is not defined|l is defined and 1|range is callable|1 is foo
x if n > 5 else 'no'|'yes' if n > 5|('no' if n > 50) is defined|'a' if false else 'b' if false else 'c'|n and 'x'|empty or 'dflt'|none_value or 0 or ''|(1, 2)|(1,)|()|[1, [2, {'a': none_value}]]|{'a': 1, 'b': [1, 'x']}|{'a': 1}.a|[1, 2][1]|'it\\'s'|"say \\"hi\\""|['it\\'s', 'a"b', 'a\\nb', 'é', '\\x00', '\\u200b']|'\\q'|'\\x41\\u00e9\\101'
range(5)|range(5) | list|range(2, 10, 3) | list|range(5, 0, -2) | list|range(3)[1]|range(10)[2:5] | list|range(0)|range(200000)|dict(a=1, b=2)|dict([('a', 1)])|dict({'x': 1}, y=2)|namespace(a=1).a|namespace(a=1).b|strftime_now('%d %b %Y')|strftime_now('%Y-%m-%d %H:%M:%S %A %B %j %y %p %I')|strftime_now('%-d %%')|raise_exception('boom ' + s)|'a' | nofilter|1 | length|l + 1|d + d|(l | map('string')) | length|{'a': 1, 'a': 2}|[missing]|{[]: 1}|l is sameas l|1 if missing else 2|'%d' is string|messages[2].tool_calls[0].arguments | tojson|messages[1].content | trim|messages | length|messages[-1].role|messages[1:][0].role
"""

TEMPLATES = [
    "{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ m.role }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for x in l %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.previtem }}{{ loop.nextitem }}|{% endfor %}",
    "{% for x in l %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }}{% endfor %}",
    "{% for x in l %}{% for y in l %}{{ loop.depth }}{{ loop.depth0 }}{{ x * y }} {% endfor %}{% endfor %}",
    "{% for x in empty %}x{% else %}none{% endfor %}", "{% for x in missing %}x{% else %}none{% endfor %}", "{% for x in none_value %}x{% endfor %}",
    "{% for x in l if x > 1 %}{{ x }}{{ loop.length }}{% else %}no{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d | dictsort %}{{ k }}={{ v }};{% endfor %}", "{% for a, b in [(1, 2), [3, 4]] %}{{ a + b }}{% endfor %}", "{% for a, b in [(1, 2, 3)] %}{% endfor %}",
    "{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% set x = 1 %}{% for i in l %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}", "{% set ns = namespace(x=0) %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}",
    "{% if n == 7 %}{% set y = 'in' %}{% endif %}{{ y }}", "{% set d.x = 1 %}", "{% set a, b = 1, 2 %}{{ b }}{{ a }}", "{% set a = 1, %}{{ a }}",
    "{% set x %}a{{ n }}b{% endset %}{{ x }}{{ x | length }}", "{% set x | upper | trim %} abc {% endset %}{{ x }}|", "{% filter upper %}abc{{ n }}{% endfilter %}",
    "{% filter replace('a', 'b') | upper %}banana{% endfilter %}", "{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% macro m(a, b=2, c='x') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m(b=5, a=4) }}{{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}", "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, z=3) }}",
    "{% macro m(x) %}<{{ caller(x) }}>{% endmacro %}{% call(y) m(3) %}{{ y * 2 }}{% endcall %}", "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}hi{{ n }}{% endcall %}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}", "{% macro m() %}{{ late }}{% endmacro %}{% set late = 'L' %}{{ m() }}",
    "{% macro m() %}x{% endmacro %}{{ m() + 'y' }}{{ m() | length }}{{ m.name }}", "{% macro m(x) %}{% set n = x %}{{ n }}{% endmacro %}{{ m(1) }}{{ n }}",
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a\n  {%- if true -%}\n  b\n  {%- endif -%}\nc", "a  {%+ if true %}\nb{% endif +%}\nc", "  {{ n }}  \n  {{- n -}}  \n x",
    "{# c #}\nx{#- d -#}\n y  {# e #}\nz", "{% raw %}{{ x }}{% y %}{% endraw %}!", "a {%- raw -%}  {{ x }}  {%- endraw -%} b", "x\r\ny\rz\n", "x\n\n", "{{ '{{' }}{{ '}}' }}{{ {'a': {'b': 1}} }}",
    "{% if missing %}a{% elif n > 10 %}b{% elif n > 5 %}c{% else %}d{% endif %}", "{%if n%}x{%endif%}", "{% if l and d and s %}t{% endif %}{% if not empty %}e{% endif %}",
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}\n{{ m['content'] | trim }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "{%- for m in messages %}\n    {%- if m.role == 'system' -%}\n        {{- '[S]' + m.content -}}\n    {%- else -%}\n        {{- '[' ~ m.role ~ ']' ~ m.content -}}\n    {%- endif -%}\n{%- endfor -%}",
    "{% generation %}a{{ n }}{% set q = 1 %}{% endgeneration %}{{ q }}", "{% if x", "{{ n", "{% endif %}", "{% for x in l %}", "{{ 1 + }}", "{% foo %}", "{{ 'abc }}", "{{ [1, 2 }}", "{{ n | }}", "{# open", "{% raw %}x", "{{ a b }}", "{{ f(a=1, 2) }}", "{% set %}", "{% if %}x{% endif %}", "{% break %}",
    "{% do l.append(1) %}", "{% include 'x' %}", "{{ range(3) | map('string') | map('int') | sum }}", "{% set it = l | map('string') %}{{ it | list }}{{ it | list }}",
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% endif %}{{ system }}{% for m in loop_messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{{ m.role }}{% endfor %}",
    "{% for i in range(3) %}{% if loop.first %}{% set v = 'first' %}{% endif %}{{ v }}{% endfor %}", "{% for c in 'aé' %}{{ c }}-{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}",
    "{{ (messages | selectattr('role', 'equalto', 'user') | list | last).content | trim }}", "{% set x = 'a' if n else 'b' %}{{ x }}", "{{ 'x' if messages[2].tool_calls is defined and messages[2].tool_calls else 'y' }}",
]


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

        def _render(self, caller):
            return caller()

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None, separators=None, sort_keys=False: json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime(2025, 7, 10, 12, 0, 0).strftime(form)

    class TemplateDict:
        def __call__(self, *args, **kwargs):
            return dict(*args, **kwargs)

        def fromkeys(self, *args, **kwargs):
            return dict.fromkeys(*args, **kwargs)

    class TemplateNamespace(jinja2.utils.Namespace):
        def __init__(*args, **kwargs):
            self, args = args[0], args[1:]
            attrs = dict(*args, **kwargs)
            for name in attrs:
                TemplateNamespace.check(name)
            jinja2.utils.Namespace.__init__(self, attrs)

        def __setitem__(self, name, value):
            TemplateNamespace.check(name)
            jinja2.utils.Namespace.__setitem__(self, name, value)

        @staticmethod
        def check(name):
            if isinstance(name, str) and name.startswith("_"):
                raise jinja2.exceptions.SecurityError(f"underscore-prefixed attribute {name!r}")

    env.globals["dict"] = TemplateDict()
    env.globals["namespace"] = TemplateNamespace
    return env


def main():
    env = environment()
    sources = [f"{{{{ {e} }}}}" for line in EXPRESSIONS.strip().split("\n") for e in split_alternatives(line)] + TEMPLATES
    cases = []
    for source in sources:
        case = {"template": source, "output": None, "error": None}
        try:
            case["output"] = env.from_string(source).render(**CONTEXT, bos_token="<s>", eos_token="</s>")
        except Exception as e:  # whatever Python raises: the engine must refuse, too
            case["error"] = type(e).__name__
        if case["output"] is not None and (" at 0x" in case["output"]):
            continue
        cases.append(case)
    with open("cases.json", "w", encoding="utf-8") as f:
        f.write('{"context":\n' + json.dumps(CONTEXT, ensure_ascii=False) + ',\n"cases": [\n')
        f.write(",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "\n]}\n")
    print(f"{len(cases)} cases, {sum(c['error'] is not None for c in cases)} errors")


def split_alternatives(line):
    """Expressions of a line stand between bars without spaces around them: 'a | b' is a filter."""
    out, start = [], 0
    for i, c in enumerate(line):
        if c == "|" and line[i - 1] != " " and not line[i + 1:i + 2] == " " and (i == 0 or line[i - 2:i] != "<|"):
            out.append(line[start:i])
            start = i + 1
    return [e for e in out + [line[start:]] if e]


if __name__ == "__main__":
    main()
