from nanwatch.rules.families import family, known_types
from nanwatch.rules.schema import schema


def test_every_option_of_every_family_is_in_the_schema_with_a_description():
    made = schema()
    assert set(made["properties"]["rules"]["items"]["discriminator"]["mapping"]) == set(known_types())
    for name in known_types():
        model = family(name)
        definition = made["$defs"][model.__name__]
        assert set(definition["properties"]) == set(model.model_fields)
        assert definition["additionalProperties"] is False
        assert "type" in definition["required"]
        assert definition["properties"]["type"]["const"] == name
        undescribed = [k for k, v in definition["properties"].items() if k != "type" and not v.get("description")]
        assert undescribed == []


def test_references_stay_inside():
    made = schema()

    def references(value):
        if isinstance(value, dict):
            yield from [value["$ref"]] if "$ref" in value else []
            for child in value.values():
                yield from references(child)
        elif isinstance(value, list):
            for child in value:
                yield from references(child)

    assert {r.removeprefix("#/$defs/") for r in references(made)} <= set(made["$defs"])
