#!/usr/bin/env python3
"""Writes snippets.json: every filter, test, method, operator and statement of Jinja2 on every kind of value, rendered by Jinja2 set up as
transformers does. Needs Jinja2 3.1.6 (PyPI).

Usage: make_snippets.py   (in this folder)

Where Python prints the address of an object, the file has 0x7f0000000000."""
import json
import re

from make_templates import environment

VALUES = ["none", "undef", "[]", "{}", '""', '"abc"', "[3,1,2]", '{"a":1,"b":none}', "0", "1.0", "true", '"Ünï😀\\n"',
          '[{"a":2},{"a":1},{"b":3}]', "1e22", "-0.0", '[none,"x",1]', '"  x y "', "(1,2)", "range(3)", "2**70", '("<b>"|e)']

FILTERS = """abs attr("a") batch(2)|list batch(2,"-")|list capitalize center(9) count default("d") default("d",true) d dictsort e escape
filesizeformat first float forceescape format format("x") groupby("a") indent(2) int int(7) items|list join("-") join last length list lower map("upper")|list
map(attribute="a")|list map(attribute="a",default=0)|list max min max(attribute="a") pprint reject|list rejectattr("a")|list replace("a","b") reverse
reverse|list round round(1) round(0,"floor") safe select|list select("odd")|list selectattr("a")|list selectattr("a","equalto",1)|list slice(2)|list
slice(2,"-")|list sort sort(attribute="a") string striptags sum sum(start=1.5) title tojson trim truncate(5) unique|list upper urlencode wordcount wordwrap(2)
xmlattr""".split()

TESTS = """boolean callable defined divisibleby(2) eq(1) equalto("abc") escaped even false filter float ge(1) gt(1) greaterthan(0) in([1,"abc"])
integer iterable le(1) lessthan(2) lower lt(1) mapping ne(0) none number odd sameas(none) sequence string test true undefined upper""".split()

STRINGS = ['"Hello World"', '""', '"a-b-c"', '"ÄöÜß ǆx"', '"x\\ty\\n z"', '"42"']
METHODS = """capitalize() casefold() center(15) center(14,"*") count("l") encode() encode("ascii") endswith("d") endswith(("d","c")) endswith("o",0,5)
expandtabs() expandtabs(4) expandtabs(tabsize=2) find("o") find("o",5) find("o",-3,-1) find("",20) format(1) index("o") isalnum() isalpha() isascii()
isdecimal() isdigit() isidentifier() islower() isnumeric() isprintable() isspace() istitle() isupper() join(["1","2"]) ljust(14) ljust(14,".") lower()
lstrip() lstrip("aH") partition("-") partition("o") partition("") removeprefix("a-") removesuffix("c") replace("l","L") replace("l","L",1) replace("","|")
rfind("o") rfind("o",0,5) rindex("l") rindex("zz") rjust(14) rjust(14,"é") rpartition("-") rpartition("o") rsplit() rsplit(none,1) rsplit("-",1) rsplit("l")
rstrip() rstrip("dc") split() split(none,1) split("-") split("-",1) split("o") splitlines() splitlines(true) startswith("H") startswith("l",2)
startswith("",11) startswith("",12) strip() strip("ac") swapcase() title() upper() zfill(8) zfill(2) format_map({"a":1}) nothing() center() center("x")
center(5,"ab") count() find() startswith(1) zfill("a") upper(1) split("") maketrans("a","b")""".split()

EXPRESSIONS = r"""
"%s-%d"|format("a",3)|"%5s|%-5s|%05d"|format("a","b",42)|"%(a)s %(b)d"|format(a="x",b=7)|"%s"|format|"%%"|format|"%s %s"|format(1)|"x"|format(1)|"%d"|format("x")
"%.2f" % 3.14159|"%d" % 3.9|"%d" % true|"%x %X %o %#x %#o" % (255,255,8,255,8)|"%e" % 12345.678|"%E" % 0.00012|"%g" % 1e10|"%g" % 0.0001|"%g" % 123456789.0|"%G" % 1e-10|"%+d % d" % (5,5)
"%5.1f|" % 2.25|"%-8.3f|" % 2.5|"%08.3f|" % -2.5|"%.0f" % 0.5|"%.0f" % 1.5|"%#.0f" % 2.0|"%s" % none|"%s" % undef|"%r" % "a'b"|"%a" % "é"|"%c%c" % (65,"b")|"%s" % ((1,2),)|"%s" % [1,2]|"x" % [1]|"x" % {}|"x" % 1|"%(a)s" % {"a":1}|"%(a)s" % {}|"%(a)s" % 1|"%*d|" % (5,3)|"%-*d|" % (5,3)|"%.*f" % (2,3.14159)|"%5%|" % ()|"%z" % 1|"%" % 1|"%d" % 2**80|"%x" % 2**70|"%.3s|" % "abcdef"|"%i %u" % (1,2)|"%ld" % 5|"%.5d" % 42|"%05s" % "a"|"%s" % ("<b>"|e)|("<%s>"|e) % "<"|"%d" % 1e30|"%f" % 1e300|"%d" % (1e400)
"{:>5}".format("a")|"{:<5}|{:^5}|{:*^7}".format("a","b","c")|"{:05d}".format(42)|"{:+} {: } {:-}".format(1,1,1)|"{:,}".format(1234567)|"{:_}".format(1234567)|"{:x} {:#X} {:b} {:o}".format(255,255,5,8)|"{:.2f}".format(3.14159)|"{:10.3f}|".format(3.14159)|"{:e}".format(12345.678)|"{:g}".format(1e10)|"{:g}".format(123456.789)|"{:%}".format(0.25)|"{:.1%}".format(0.255)|"{:08.2f}".format(-3.14159)|"{:,.2f}".format(1234567.891)|"{:010,}".format(1234)|"{:04,}".format(1)
"{} {}".format(1,"x")|"{1} {0}".format("a","b")|"{a} {b!r}".format(a=1,b="x")|"{0[1]} {0[a]}".format({"a":2,1:3})|"{0.a}".format({"a":5})|"{{}} {}".format(1)|"{!s:>4}".format(1)|"{!r} {!a}".format("é","é")|"{:{}}|".format("a",5)|"{:{w}.{p}f}".format(2.5,w=8,p=2)|"{} {0}".format(1)|"{0} {}".format(1)|"{".format()|"}".format()|"{}".format()|"{a}".format()|"{:d}".format("a")|"{:s}".format(1)|"{:z}".format(1)|"{}".format(none)|"{:5}".format(none)|"{}".format(undef)|"{:>5}".format(undef)|"{}".format([1,"a"])|"{:5}".format([1])|"{}".format(true)|"{:d}".format(true)|"{:5}|".format(true)|"{:.3}".format("abcdef")|"{:.3}".format(1234.5)|"{:.3}".format(0.00001234)|"{:.1}".format(5.0)|"{:}".format(1.0)|"{:10}|".format(1.5)|"{:<10}|".format(1.5)|"{:=+8}".format(42)|"{:é^5}".format("a")|"{:#x}".format(-255)|"{:_x}".format(65536*65536)|"{:,x}".format(5)|"{:.2d}".format(5)|"{:n}".format(5)|"{:c}".format("a")|"{:+.1e}".format(0.0)|"{:.0e}".format(15.0)|"{:#g}".format(1.0)|"{:G}".format(1e-7)|"{:z.1f}".format(-0.01)|"{0.__class__}".format(1)|"{:f}".format(1e23)|"{:f}".format(5)|"{:,}".format(2**70)|"{:x}".format(2**70)|"{a[0]}".format(a=[7])|"{a.b.c}".format(a={"b":{"c":1}})|"{:<5}{:>5}".format(1,2)|"{x}".format_map({"x":1})|"{x}".format_map({})|("{}"|e).format("<")|("<{}>"|e).format("<")
2**64|2**100|-2**63|-(2**63)|9223372036854775807 + 1|9223372036854775808|-9223372036854775808|-9223372036854775809|12345678901234567890123 * 98765432109876543210|10**30 // 7|-10**30 // 7|10**30 % 7|-10**30 % 7|10**30 % -7|10**40 // 10**20|10**40 % (10**20 + 1)|(10**25 + 3) // (10**12 - 1)|2**70 - 2**70|2**64 == 2**64|2**64 > 2**63|2**64 < 1.5|2**64 == 18446744073709551616.0|2**53 + 1 == 9007199254740992.0|10**20 / 10|10**20 * 1.5|-(2**70)|+(2**70)|(2**70)|int|(2**70)|float|"123456789012345678901234567890"|int|"0xffffffffffffffffffff"|int(0,16)|1e22|int|-1e22|int|(2**70)|string|[2**70]|(2**70)|tojson|{"a":2**70}|tojson|(2**70)|abs|(-(2**70))|abs|(2**70) is number|(2**70) is integer|(2**70) is odd|(2**70) is divisibleby 2|2**70 in [2**70]|{2**70: 1}[2**70]|[2**70, 1, 2**65]|sort|[2**64, 1]|max|[2**63, 2**63]|sum|(2**70).bit_length()|0xffffffffffffffffffff|1_000_000_000_000_000_000_000|true + 2**64|2**-2|0**-1|(-1)**(10**30)|1**(2**70)|10**5000|2**0.5|(2**70) if 1|(-8)**3|7**30|3**40 // 3**20 == 3**20|-7 // 2|-7 % 3|2**64 // -3|2**64 % -3|"a" * 2**64|[1][2**64]|range(2**64)|(2**70)|round|(2**70)|filesizeformat|"%d" % -(2**70)|2**63 - 1|(2**64)|hash|"abc"[2**64:]|1234|round(-2)|1250|round(-2)|1350|round(-2)|-1250|round(-2)|1234.5678|round(-2)|1250.5|round(-2)|2.5|round|3.5|round|2.675|round(2)|1234|round(-2,"ceil")|12.34|round(1,"ceil")|15|round(-1,"floor")|5|round(2)|5|round(0,"ceil")|1e300|round(2)|2.5|round(-400)
cycler("a","b").next()|cycler("a","b").current|cycler()|cycler(1)|joiner()()|joiner("x")|joiner("-").sep|joiner(1,2)|lipsum(n=1)|self|self.x|namespace()|namespace(a=1)|namespace({"a":1}).a|namespace(_a=1)|dict(a=1)|dict([("a",1)],b=2)|dict(1)|dict(undef)|range()|range(1,2,0)|range("a")|range(1.0)|range(5,1)|list|range(3).start|range(3).stop|range(3)|last|range(3)[5]|range(3) == range(0,3)|range(5)[1:3]|list|range(10)[::3]|list|range(100001)|raise_exception("x")|raise_exception()|strftime_now("%Y")|strftime_now("%x %X %c %D %F %T %R %e %C %u %w %n %t %%")|strftime_now("%s")
(5).real|(5).imag|(1.5).is_integer()|(2.0).is_integer()|(255).bit_length()|(7).numerator|(7).denominator|(7).conjugate()|(5).foo|(5).hex|1.5.real|(-7).bit_count()|true.real|(5)["real"]|(5)[0]|none[0]|none.a|none()|5()|"a"()|[]()|undef()|undef.a.b|undef[0]|undef["a"]|undef + 1|undef ~ "x"|-undef|undef < 1|undef == undef2|undef == none|undef in [1]|1 in undef|not undef|undef and 1|undef or 1|undef|list|undef.upper()|{}.a.b|[].a|[]["a"]|"abc".a|"abc"["upper"]|"abc"["upper"]()|[1]["count"](1)|{}["get"]("a")|{"a":1}["a"]|{"a":1}.get("a")|{"keys":1}.keys|{"keys":1}["keys"]|{1:2}[1]|{1:2}[true]|{1.0:2}[1]|{(1,2):3}[1,2]|{(1,2):3}[(1,2)]|[1,2][1,2]|"abc"[1,2]|[1,2,3][:2]|[1,2,3][-2:]|[1,2,3][::-1]|"abc"[::-1]|"abc"[1:2]|(1,2,3)[1:]|[1,2][none:none]|[1,2]["0"]|[1,2].0|[[1,2]].0.1|{"a":[1]}.a.0|{"0":5}.0|[1,2]["a":]|undef[1:]|none[1:]|5[1:]
"a" < "b"|"a" < 1|[1] < [2]|[1] < (2,)|{} < {}|none < none|true < 2|1 < 2 < 3 < 2|1 == true|1 == "1"|1.0 == 1|[1,[2]] == [1.0,[2.0]]|(1,) == [1]|{"a":1} == {"a":1.0}|none == false|"a" in "abc"|"" in "abc"|1 in [1.0]|none in [none]|"a" in {"a":1}|[1] in [[1]]|[] in {}|1 in 5|"a" in none|not 1 in [2]|1 not in [2]|"abc" is in "abcd"|1 is not in [2]|1 + "a"|"a" + 1|"a" + "b"|[1] + [2]|[1] + (2,)|(1,) + (2,)|{} + {}|none + 1|"a" * 3|3 * "a"|"a" * -1|"a" * 1.5|[1] * 2|2 * (1,)|"a" - "b"|"a" / 2|7 // 2|7 // 2.0|7 % 2.5|-7.5 // 2|-7.5 % 2|1 / 0|1 // 0|1 % 0|1.0 / 0|2 ** 3|2.0 ** 3|4 ** 0.5|(-8) ** (1/3)|0 ** 0|0.0 ** -1|1e308 * 10|1e308 * 10 - 1e308 * 10|-1e400|1e16|1e15|123456789.123456789|0.1 + 0.2|1e-4|1e-5|100000000000000000.0|1.5e300 * 1e10|5 // 0.0|-0.0 + 0|0.1 * 3|- -1|+ "a"|- [1]|not not 1|1 if 0|(1 if 0) is defined|1 if 1 else 2 if 0 else 3|"a" ~ 1 ~ none ~ [1] ~ true ~ 1.5|1 ~ 2|[] or {} or "x"|1 and 0 and 2|"a" "b"|"\x41\u00e9\n\t\\\'\""|'\101\7\q'|"\N{BULLET}"|1_0|0x1F|0b101|0o17|1e3|1E-2|1.5e+3|.5|5.|1__0|0x|[1,]|(1,)|()|{"a":1,}|[,]|{,}|{1}|(1 2)|[1 2]|a.b c|1 = 1|a := 1|1 <> 2|1 === 1|!1|a && b|@|$|`|1 ? 2|lambda: 1|[x for x in y]|f"a"|a if|a else b|is 1|in [1]|not|1 not 2|1 is|1 is not|1 |a|||x|
[1,2,3]|batch(0)|list|[1,2,3]|batch(-1)|list|[1,2,3]|batch("a")|list|[1,2,3]|batch|list|[1,2,3]|slice(0)|list|[1,2,3]|slice(-1)|list|[1,2,3]|slice(5)|list|[1,2,3,4,5,6,7]|slice(3)|list|[1,2,3,4,5,6,7]|slice(3,"x")|list|[1,2]|slice("a")|list|[1,2,3]|batch(2)|[1,2,3]|slice(2)|[1]|map("upper")|[1]|select|[1]|unique|{"a":1}|items|(1,2)|reverse|range(3)|reverse|{"a":1}.items()|reverse|{"a":1}.values()|reverse|{"a":1}.keys()|reverse|list|([1]|map("int"))|reverse|5|reverse|[1,2]|map("int")|first|[3,"a"]|sort|["b","A","c"]|sort|["b","A","c"]|sort(true)|["b","A","c"]|sort(case_sensitive=true)|[{"a":2,"b":1},{"a":1,"b":2},{"a":1,"b":1}]|sort(attribute="a,b")|[{"a":"x"},{"a":"X"},{"a":"y"}]|groupby("a")|[{"a":"X"},{"a":"x"}]|groupby("a")|"-abc"|wordwrap(2)|"αΣΣ 1Σ Σ Α"|lower|[{"a":"x"},{"a":"X"}]|groupby("a",case_sensitive=true)|[{"a":1},{}]|groupby("a",default=0)|[{"a":1},{}]|groupby("a")|[1,2,1]|groupby(none)|([{"a":1}]|groupby("a"))[0].grouper|([{"a":1}]|groupby("a"))[0].list|[[1,2],[1,3]]|groupby(0)|[{"a":{"b":1}}]|groupby("a.b")|[1]|groupby|[1,2]|join|[1,none,"x"]|join(",")|[{"a":1},{"a":2}]|join(",","a")|[{"a":1}]|join(",",attribute="b")|5|join|"abc"|join("-")|{"a":1,"b":2}|join|[1,2]|join(3)|["a","B","b"]|unique|list|["a","B","b"]|unique(true)|list|[[1]]|unique|list|[{"a":1},{"a":1}]|unique(attribute="a")|list|["b","A"]|min|["b","A"]|max(true)|[1,"a"]|max|[{"a":3},{"a":1}]|min(attribute="a")|[1,2]|sum|[[1],[2]]|sum(start=[])|["a"]|sum|["a"]|sum(start="")|[{"a":1},{"a":2}]|sum("a")|[{"a":1},{}]|sum("a")|[1.5,2]|sum|{"b":1,"a":2}|dictsort|{"b":1,"a":2}|dictsort(by="value")|{"b":1,"A":2}|dictsort(true)|{"b":1,"a":2}|dictsort(reverse=true)|{"b":1}|dictsort(by="x")|{"a":1,2:3}|dictsort|[1,2,3]|select("gt",1)|list|[1,2,3]|select(">=",2)|list|[1,2,3]|reject("in",[1])|list|[1,2,3]|select("nope")|list|[]|select("nope")|list|[1]|select("divisibleby",num=1)|list|[{"a":1},{"a":none}]|selectattr("a","none")|list|[{"a":{"b":1}}]|selectattr("a.b")|list|[{"a":1}]|selectattr|list|[1]|selectattr("a")|list|[1]|map|list|[1]|map("nope")|list|[]|map("nope")|list|[1]|map(attribute=none)|list|[{"a":1}]|map(attribute="a",foo=1)|list|[1.26]|map("round",1)|list|["a"]|map("default","x")|list|[[3,1]]|map("sort")|list|[[1,2]]|map(attribute=0)|list|[[1,2]]|map("first")|list|["ab"]|map("attr","upper")|list|{}|attr("keys")|[1]|attr("append")|"x"|attr("upper")|[1,2,3]|first|[]|first|[]|last|{}|first|5|first|none|last|(1,2)|last|"abc"|last|{"a":1,"b":2}|last
"hello world foo bar"|truncate(11)|"hello world foo bar"|truncate(11,true)|"hello world foo bar"|truncate(10,true,"")|"hello world foo bar"|truncate(9,false,"..",0)|"hello"|truncate(2)|"hello world"|truncate(5,leeway=0)|"hello world"|truncate(5,leeway=-1)|"helloworldfoo"|truncate(5,leeway=0)|[1,2]|truncate|[1,2,3]|truncate(3,leeway=-1)|"a b c d e f"|wordwrap(3)|"hello-world foo--bar baz"|wordwrap(7)|"well-known self-contained x-y"|wordwrap(5)|"abcdefghij"|wordwrap(3)|"abcdefghij klm"|wordwrap(3,false)|"a  b   c"|wordwrap(2)|"aaa bbb\nccc ddd"|wordwrap(5)|"aaa bbb"|wordwrap(3,wrapstring="|")|"aa-bb-cc"|wordwrap(3,break_on_hyphens=false)|"aa-bb-cc-dd"|wordwrap(4)|"x"|wordwrap(0)|""|wordwrap(0)|"ab cd"|wordwrap("x")|" leading and trailing "|wordwrap(8)|"long--dash---here"|wordwrap(4)|"it's a test, isn't it? yes--no"|wordwrap(6)|"été-là ça"|wordwrap(4)|"a\n\n b"|wordwrap(3)|"tab\there there"|wordwrap(6)|"a-b c-d e"|wordwrap(2)|"---- ----"|wordwrap(2)|"<p>a <b>b</b></p>"|striptags|"a<!-- x <b> -->b"|striptags|"a &lt; b &amp; c &#39;d&#x41;"|striptags|"<<b>x>"|striptags|"a < b"|striptags|"<!<!-- -->-- x -->y"|striptags|"a&nbsp;b"|striptags|" a \n b "|striptags|"&"|striptags|"a & b"|striptags|{"a":"x y","b":1}|urlencode|[["a","b"],["c","d&e"]]|urlencode|"a/b?c=d e"|urlencode|"é~_.-"|urlencode|["ab"]|urlencode|["abc"]|urlencode|[1]|urlencode|{"a":none}|urlencode|{"é":"/"}|urlencode|{"a":1,"b":none,"c":undef,"d":"<\"&'>"}|xmlattr|{"a":1}|xmlattr(false)|{}|xmlattr|{"a b":1}|xmlattr|{"a=":1}|xmlattr|{1:2}|xmlattr|[]|xmlattr|{"a/":none}|xmlattr|1|filesizeformat|999|filesizeformat|1000|filesizeformat|1024|filesizeformat(true)|1023|filesizeformat(true)|123456789|filesizeformat|123456789|filesizeformat(true)|1e30|filesizeformat|-5|filesizeformat|1.5|filesizeformat|"1500"|filesizeformat|"x"|filesizeformat|none|filesizeformat|0.5|filesizeformat|999999|filesizeformat|999950|filesizeformat|"a b_c d-e f's"|wordcount|"héllo wörld ½ ٣"|wordcount|"hello_world"|wordcount|"x"|center(1)|"x"|center(4)|"xy"|center(5)|"x"|center("a")|"x"|center(-1)|{"b":1,"a":[2,{"d":1,"c":2}]}|pprint|"a'b"|pprint|(1,)|pprint|"<b>&\"'"|e|("<"|e)|forceescape|"<"|forceescape|"<"|safe|forceescape|("a"|safe) ~ "<"|("a"|e) + "<"|"<" + ("a"|e)|("a<"|e)|replace("&","x")|("<"|e).replace("&","<")|("<"|e)|upper|("<"|e)|length|("<"|e) * 2|("<"|e) is escaped|("<"|e)|string is escaped|(","|e).join(["<","b"])|["<"|e,"<"]|join(",")|("<"|e)|trim|("<a>"|e)|title|("<"|e)[0:2]|("a b"|e).split()|("<b>"|e)|striptags|[("<"|e)]|"a\nb"|indent|"a\n\nb"|indent(2)|"a\n\nb"|indent(2,true,true)|"a\r\nb"|indent(1)|"a\nb\n"|indent(2)|""|indent(2,true)|"a\nb"|indent(">")|"a\nb"|indent(width=1,first=true)|("a\nb"|e)|indent(1)|"a"|indent(-1)|"a\x0bb"|indent(1)
"abc" is lower|"ABC" is upper|"1" is upper|1 is lower|none is lower|undef is upper|"upper" is filter|"nope" is filter|"odd" is test|"random" is filter|[] is filter|1 is test|1 is divisibleby(num=1)|1 is divisibleby(0)|1 is sameas 1.0|none is sameas none|"a" is sameas "a"|[] is sameas []|true is sameas true|1 is sameas true|3 is odd(1)|3 is nope|"a" is odd|1.5 is odd|3 is divisibleby 3 and true|not 3 is even|3 is not even|1 is eq 1|1 is == 1|1 is number is string|range is callable|"".upper is callable|undef is callable|5 is iterable|{}.items() is sequence|{}.items() is iterable|([]|map("int")) is sequence|"é".encode() is sequence|none is mapping|namespace() is mapping|1 is in [1]|1 is in(seq=[1])|"a" is in "abc"|1 is in 1
"a"|default|none|default("x")|undef|default|undef|default("x",true)|undef|default(default_value="x")|0|default("x",boolean=true)|undef.a|default("x")|{}.a|default("x")|"5"|int|"5.7"|int|"x"|int|"x"|int(3)|"0x1A"|int(base=16)|"1A"|int(0,16)|"0b11"|int(0,0)|"11"|int(base=2)|"z"|int(base=36)|"5"|int(base=99)|none|int|[]|int|[]|int("q")|true|int|2.9|int|-2.9|int|"-7"|int|" 7 "|int|"7_0"|int|"7__0"|int|"1e3"|int|"inf"|int|"nan"|int|""|int|"５"|int|"1.5"|float|"x"|float|"x"|float(2)|none|float|"inf"|float|"-inf"|float|"nan"|float|"1e400"|float|"1_0.5"|float|" 1.5 "|float|".5"|float|"5."|float|true|float|[]|float|undef|float|undef|int|{"a":undef}|tojson|{1:1,none:2,true:3,1.5:4}|tojson|{(1,2):1}|tojson|[1.0,1e100,-0.0]|tojson|"\u2028</script>"|tojson|"é"|tojson(ensure_ascii=true)|{"b":1,"a":2}|tojson(sort_keys=true)|[1,[2]]|tojson(indent=2)|[1,{"a":[]}]|tojson(indent="\t")|{}|tojson(indent=2)|[1,2]|tojson(separators=(",",":"))|[1,2]|tojson(separators=("a","b","c"))|range(2)|tojson|("<"|e)|tojson|namespace()|tojson|(1,2)|tojson|"x"|tojson(foo=1)|{"b":1,1:2}|tojson(sort_keys=true)|"é".encode("utf-8")|"a'b".encode()|"é".encode("ascii")|"é".encode("latin-1")|"é".encode()|length|"é".encode().decode()|"a".encode() == "a"|"a".encode() == "a".encode()|"a".encode() ~ ""|"\x00\x7f\\".encode()|[1,2,3].index(2)|[1,2,3].index(2,2)|[1,2,3].index(3,-1)|[1,2].count(1)|[1,2].copy()|[1].append(2)|[1].insert|[3,1].sort()|{}.update({})|{"a":1}.pop("a")|{"a":1}.setdefault("b",1)|{"a":1}.items()|list|{"a":1}.fromkeys([1])|(1,2).count(1)|(1,2).index(2)|range(3).count(1)|range(3).index(2)|"a".__class__|"a".__len__()|[].__class__.__mro__|{}["__class__"]|(1)|attr("__class__")|"abc"|attr("__len__")|1|random|"http://a.b"|urlize|"x"|nope|"x"|upper("a")|"x"|replace|"x"|replace("x")|"x"|trim(1)|"x"|join(1,2,3)|"aXbX"|replace("X","y",1)|"a"|replace("a",none)|5|replace(5,6)|"abc"|trim("ac")|"x"|trim(none)|["x"]|trim|none|trim|none|upper|5|upper|["a"]|upper|none|title|"hello-world (foo) [bar] {baz} <qux> it's"|title|"hello WORLD"|capitalize|"ß"|upper|"ﬁ"|upper|"ŉ"|title|"İ"|lower|"Σας ΟΔΟΣ"|lower|"ǆ"|title
"""

TEMPLATES = [
    "{% for x in [[1]] recursive %}[{{ v|default('-') }}]{% set v = 'in' %}{% if x is iterable %}{{ loop(x) }}{% endif %}{% endfor %}",
    "{% for i in [1,2,3] recursive %}{{i}}{% endfor %}",
    "{% for x in [[1,[2,3]],4] recursive %}{{ loop.depth }}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% if not loop.last %},{% endif %}{% endfor %}",
    "{% for x in t recursive %}{{ x.n }}{% if x.c %}<{{ loop(x.c) }}>{% endif %}{{ loop.depth0 }}{% endfor %}",
    "{% for x in [1] recursive %}{{ loop([]) }}{% else %}e{% endfor %}", "{% for x in [1] %}{{ loop([1]) }}{% endfor %}",
    "{% for x in [1] recursive %}{{ loop() }}{% endfor %}", "{% for x in [1] recursive %}{{ loop(5) }}{% endfor %}",
    "{% for x in [3,1] if x > 1 recursive %}{{ x }}{% if x == 3 %}{{ loop([0, 2]) }}{% endif %}{% endfor %}",
    "{% set v = 'o' %}{% for x in [[1]] recursive %}{{ v }}{% if x is iterable %}{{ loop(x) }}{% endif %}{% endfor %}",
    "{% for x in [1,2] %}{{ loop }}{% endfor %}", "{% for x in [1,2,2] %}{{ loop.changed(x) }}{{ loop.cycle(1,2) }}{% endfor %}",
    "{% for x in [1,2,3] %}{{ loop.previtem|default('-') }}{{ loop.nextitem|default('-') }}{% endfor %}",
    "{% for x in [1] %}{{ loop.nothing }}{% endfor %}", "{% for x in [1] %}{{ loop.nothing is defined }}{{ loop.cycle() }}{% endfor %}",
    "{% for x in 'ab' %}{% for y in 'cd' %}{{ loop.index }}{{ x }}{{ y }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}", "{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [[1]] %}{% endfor %}", "{% for a in 5 %}{% endfor %}", "{% for a in none %}{% else %}x{% endfor %}", "{% for a in undef %}{% else %}x{% endfor %}",
    "{% for a in [1,2,3] %}{% if a == 2 %}{% continue %}{% endif %}{{ a }}{% endfor %}", "{% for a in [1,2,3] %}{% if a == 2 %}{% break %}{% endif %}{{ a }}{% else %}e{% endfor %}",
    "{% for a in [1] %}{{ a }}{% endfor %}{{ a }}", "{% for a in [] %}{% else %}{{ loop }}{% endfor %}", "{% for loop in [1] %}{% endfor %}",
    "{% for x in [1,2]|map('string') %}{{ loop.length }}{{ x }}{% endfor %}", "{% for x in [1,2,3]|batch(2) %}{{ x }}{% endfor %}",
    "{% for g in [{'a':1},{'a':1},{'a':2}]|groupby('a') %}{{ g.grouper }}:{{ g.list|length }};{% endfor %}", "{% for k, l in [{'a':1}]|groupby('a') %}{{ k }}{{ l }}{% endfor %}",
    "{% set c = cycler('a','b','c') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }}{{ c }}", "{% set c = cycler(1) %}{{ c.next(1) }}",
    "{% set j = joiner('|') %}{% for i in [1,2,3] %}{{ j() }}{{ i }}{% endfor %}", "{% set j = joiner() %}{{ j() }}a{{ j() }}b{{ j() }}{{ j }}",
    "{% macro m(a, b=2) %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(*[1,2,3], **{'k': 4}) }}", "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1,2]) }}{{ m(**{'a':1,'b':2}) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, *[2]) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(*5) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(**5) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(a=1, **{'a': 2}) }}",
    "{{ '{} {x}'.format(*[1], **{'x': 2}) }}", "{{ range(*[1, 5])|list }}", "{{ dict(**{'a': 1}) }}", "{{ [1,2,3]|batch(*[2])|list }}", "{{ 'a'.replace(*('a', 'b')) }}", "{{ f(*a, *b) }}", "{{ f(**a, b) }}", "{{ f(**a, b=1) }}", "{{ dict(*[[('a', 1)]], b=2) }}", "{{ dict(a=1, *[]) }}", "{{ f(a=1, b) }}", "{{ range(*undef) }}", "{{ range(3, **undef) }}",
    "{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b=3) m() %}{{ a }}{{ b }}{% endcall %}", "{% macro m() %}{{ caller }}{% endmacro %}{{ m() }}", "{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}", "{% macro m(x) %}{{ x }}{% endmacro %}{{ m }}{{ m.name }}{{ m.arguments }}{{ m.catch_kwargs }}{{ m.caller }}{{ m.foo }}", "{% macro m(a=1, b) %}{% endmacro %}", "{% macro m(a, a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{{ m() }}{% macro m() %}{% endmacro %}",
    "{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }}{{ m(none) }}", "{% macro outer() %}{% macro inner() %}i{% endmacro %}{{ inner() }}{% endmacro %}{{ outer() }}{{ inner is defined }}", "{% macro m() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ m() }}{% set x = 2 %}{{ m() }}",
    "{% call m() %}{% endcall %}", "{% call 5 %}{% endcall %}", "{% macro %}{% endmacro %}", "{% macro m %}{% endmacro %}",
    "{% filter upper %}a{{ 'b' }}{% endfilter %}", "{% filter replace('a','b')|center(5) %}a{% endfilter %}", "{% filter nope %}a{% endfilter %}", "{% filter %}a{% endfilter %}", "{% filter format('x') %}%s!{% endfilter %}",
    "{% set x %}a{% endset %}{{ x }}", "{% set x | upper %}a{{ 1 }}{% endset %}{{ x }}{{ x is string }}{{ x is escaped }}", "{% set a, b = [1, 2] %}{{ a }}{{ b }}", "{% set a, b = 1 %}", "{% set (a, b) = (1, 2) %}{{ a + b }}", "{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}{{ ns['a'] }}{{ ns.b is defined }}{{ ns.b }}", "{% set ns = namespace() %}{% set ns.a %}x{% endset %}{{ ns.a }}", "{% set ns = namespace(a=1) %}{% set ns._a = 1 %}", "{% set x.y = 1 %}", "{% set x = {} %}{% set x.y = 1 %}", "{% set 1 = 2 %}", "{% set none = 2 %}", "{% set x += 1 %}", "{% set x = 1 if false %}{{ x }}|{{ x is defined }}", "{% set x = 1, 2 %}{{ x }}", "{% set a = b = 1 %}", "{% set x = 5 %}{% if true %}{% set x = 6 %}{% endif %}{{ x }}{% for i in [1] %}{% set x = 7 %}{% endfor %}{{ x }}",
    "{% with %}{% set a = 1 %}{{ a }}{% endwith %}{{ a }}", "{% with a = 1, b = a %}{{ b }}{% endwith %}", "{% with a = 1 %}{% with a = a + 1 %}{{ a }}{% endwith %}{{ a }}{% endwith %}", "{% with a %}{% endwith %}",
    "{% if a %}{% elif b %}{% else %}x{% endif %}", "{% if 1 %}a{% else %}b{% else %}c{% endif %}", "{% if 1 %}a{% elif %}{% endif %}", "{% if [] %}a{% elif [0] %}b{% endif %}", "{% else %}", "{% endfor %}", "{% if 1 %}", "{% for x in [1] %}{% endif %}",
    "{% generation %}x{% endgeneration %}", "{% generation %}{% for i in [1] %}{{ i }}{% endfor %}{% endgeneration %}", "{% generation %}", "{% do x %}", "{% debug %}", "{% trans %}x{% endtrans %}", "{% import 'a' as b %}", "{% from 'a' import b %}", "{% extends 'a' %}", "{% include 'a' %}", "{% continue %}", "{% for x in [1] %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
    "{# a #}b{# {{ x }} #}", "{% raw %}{{ a }}{# b #}{% endraw %}", "{%- raw -%} a {%- endraw -%} b", "a{%- if 1 -%} b {%- endif -%} c", " {%+ if 1 %}a{% endif %}", "  {% if 1 %}\n  a\n  {% endif %}\n b", "{{- 'a' -}} b", "a {{- 'b' }} c", "a\n{{ 1 }}\nb\n", "a\n{% if 1 %}\n{% endif %}\nb\n", "a {#- x -#} b", "{{ '}}' }}{{ \"%}\" }}", "{{ {'a': {}} }}", "{{ 'a' }}{% raw %}{% endraw %}{{ 'b' }}", "{{ 1 }", "{{ 1 %}", "{% if 1 }}", "{{ 'a }}", "{{ \"a' }}", "{{ ( }}", "{{ ) }}", "{{ [) }}", "{{}}", "{{ }}", "{%%}", "{% %}", "{#", "{% raw %}", "{{", "{%", "x{", "}}", "%}", "#}", "{ { a } }",
    "{{ 1, 2 }}", "{{ 1, }}", "{{ (1, 2), 3 }}", "{{ 'a' if x else 'b' }}", "{{ x.y.z if x is defined and x.y is defined else 'n' }}", "{{ not x is defined }}", "{{ 1 if 2 if 0 else 3 else 4 }}", "{{ -1|abs }}", "{{ (-1)|abs }}", "{{ 2 ** 3 ** 2 }}", "{{ -2 ** 2 }}", "{{ 1 + 2 ~ 3 }}", "{{ 'a' ~ 1 + 2 }}", "{{ 1 < 2 and 2 < 1 or 3 }}", "{{ 5 - 3 - 1 }}", "{{ 2 * 3 % 4 }}", "{{ 'a'|upper|lower ~ 'B'|lower }}", "{{ [1,2]|length > 1 }}", "{{ 'x' in 'xy' and 'y' not in 'x' }}", "{{ 1 is odd and 2 is even }}", "{{ 'a'.upper()|lower.upper() }}", "{{ 'a'|lower() }}", "{{ ('a')|upper }}", "{{ 'a' 'b'|upper }}", "{{ 1.real }}", "{{ 'é'|length }}{{ 'é'[0] }}", "{{ true }}{{ True }}{{ false }}{{ none }}{{ None }}{{ null is defined }}", "{{ loop is defined }}{{ self is defined }}{{ range }}",
]

CONTEXT = {"t": [{"n": 1, "c": [{"n": 2, "c": [{"n": 3}]}, {"n": 4}]}, {"n": 5}]}


def split_alternatives(line):
    """Expressions stand between bars that follow neither a bar nor an opening, at bracket depth 0; a filter's bar is part of an expression when
    what follows it is the name of a filter or of a test."""
    names = set(environment().filters) | {"nope", "hash"}
    out, start, depth, quote = [], 0, 0, ""
    i = 0
    while i < len(line):
        c = line[i]
        if quote:
            if c == "\\":
                i += 1
            elif c == quote:
                quote = ""
        elif c in "\"'":
            quote = c
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == "|" and depth <= 0:
            name = re.match(r"\w*", line[i + 1:]).group()
            if name not in names:
                out.append(line[start:i])
                start, depth = i + 1, 0
        i += 1
    return [e for e in out + [line[start:]] if e.strip()]


def main():
    env = environment()
    sources = [f"{{{{ ({v})|{f} }}}}" for f in FILTERS for v in VALUES]
    sources += [f"{{{{ ({v}) is {t} }}}}" for t in TESTS for v in VALUES]
    sources += [f"{{{{ {s}.{m} }}}}" for m in METHODS for s in STRINGS]
    sources += [f"{{{{ {e} }}}}" for line in EXPRESSIONS.strip().split("\n") for e in split_alternatives(line)] + TEMPLATES
    cases = []
    for source in dict.fromkeys(sources):
        case = {"template": source, "output": None}
        try:
            output = env.from_string(source).render(**CONTEXT)
            case["output"] = re.sub(r" at 0x[0-9a-f]+", " at 0x7f0000000000", output)
        except Exception:  # whatever Python raises: the engine must refuse, too
            pass
        cases.append(case)
    with open("snippets.json", "w", encoding="utf-8") as f:
        f.write('{"context":\n' + json.dumps(CONTEXT, ensure_ascii=False) + ',\n"cases": [\n')
        f.write(",\n".join(json.dumps(list(c.values()), ensure_ascii=False, separators=(",", ":")) for c in cases) + "\n]}\n")
    print(f"{len(cases)} cases, {sum(c['output'] is None for c in cases)} errors")


if __name__ == "__main__":
    main()
