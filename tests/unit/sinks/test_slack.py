from nanwatch.sinks.slack import slack_message


def body(**data):
    base = {
        "title": "NaN at step 3",
        "text": "It is NaN.",
        "severity": "critical",
        "origin": None,
        "fix": [],
        "links": {},
    }
    return {"type": "nanwatch.incident.created", "timestamp": "t", "data": {**base, **data}}


def sections(message):
    return [b["text"]["text"] for b in message["blocks"] if b["type"] == "section"]


def test_names_cannot_mention_people_or_make_links():
    message = slack_message(body(title="<!channel> a&b", text="layer <@U123> & <http://x|y>"))
    assert message["text"] == "&lt;!channel&gt; a&amp;b\nlayer &lt;@U123&gt; &amp; &lt;http://x|y&gt;"
    assert all("<" not in text for text in sections(message))
    assert message["blocks"][0]["text"]["type"] == "plain_text"


def test_every_text_is_within_slacks_limits():
    message = slack_message(
        body(title="t" * 500, text="<" * 5000, origin={"code": "x" * 9000}, fix=["f", *["y" * 900] * 5])
    )
    assert len(message["blocks"][0]["text"]["text"]) <= 150
    assert all(len(text) <= 3000 for text in sections(message))
    assert not sections(message)[0].removesuffix("…").endswith(("&", "&l", "&lt"))


def test_code_fixes_and_links_are_shown():
    links = {"run": "http://h/#/r?a=1&b=2", "report": "http://h/x"}
    message = slack_message(body(origin={"code": "x = ```log```(p)"}, fix=["first", "second"], links=links))
    code, fixes, found = sections(message)[1:]
    assert code == "```x = '''log'''(p)```"
    assert fixes == "• second"
    assert found == "<http://h/#/r?a=1&amp;b=2|run> · <http://h/x|report>"
