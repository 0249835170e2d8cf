"""Captions describe the scene and never the camera's motion."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moworld.data.captions import appearance_caption, mentions_camera_motion, scene_caption

facts = st.fixed_dictionaries(
    {
        "mean_rgb": st.lists(st.floats(0, 255), min_size=3, max_size=3),
        "brightness": st.floats(0, 255),
        "median_depth_units": st.floats(0, 2000),
        "objects": st.dictionaries(st.sampled_from(["HealthBonus", "TechLamp", "ExplosiveBarrel", "Column"]), st.floats(0, 1)),
    }
)


@settings(max_examples=15, deadline=None)
@given(facts)
def test_captions_of_scene_facts_mention_no_camera(scene):
    caption = scene_caption(scene)
    assert mentions_camera_motion(caption) == []
    assert caption == scene_caption(scene) and caption[0].isupper()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0, 255), min_size=3, max_size=3))
def test_captions_of_pixels_mention_no_camera(rgb):
    assert mentions_camera_motion(appearance_caption(rgb)) == []


def test_a_caption_names_light_place_and_what_is_seen_most():
    scene = {"mean_rgb": [90, 60, 55], "brightness": 60, "median_depth_units": 200,
             "objects": {"Column": 0.1, "HealthBonus": 0.5, "TechLamp": 0.3, "ExplosiveBarrel": 0.05}}  # fmt: skip
    assert scene_caption(scene) == "A dimly lit brown hall with health bonus, tech lamp, column, in the style of an early 3D game"


@pytest.mark.parametrize(
    "text",
    [
        "The camera slowly pans left over a garden",
        "A hall; the camera moves forward through it",
        "Panning right across the table",
        "We walk into a dark corridor",
        "A tracking shot of a red car",
        "Moving forward between two walls",
        "a first-person view of a corridor",
        "the viewpoint rotates around the statue",
        "zooming in on a flower",
        "A slow pan left over a table",
        "Zoom in on a flower",
    ],
)
def test_motion_of_the_camera_is_found(text):
    assert mentions_camera_motion(text)


@pytest.mark.parametrize(
    "text",
    [
        "A camera on a tripod stands on the table",
        "A train moves past a station",
        "People walk along the street",
        "A frying pan left on a stove",
        "Water flows to the left of a bridge",
        "A tilted tower beside a church",
        "A movie camera shop",
    ],
)
def test_motion_in_the_scene_is_left_alone(text):
    assert mentions_camera_motion(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "The perspective glides onward between the pillars.",
        "The viewer drifts toward the door.",
        "As the view swings right, a door is revealed.",
        "A stone hall with barrels. Footage advancing down a corridor, then rotating.",
        "Our vantage point climbs above the rooftops.",
        "The lens pushes deeper into the tunnel.",
    ],
)
def test_motion_in_words_that_no_list_has_is_caught_by_its_meaning(text):
    assert mentions_camera_motion(text) == [text.split(". ")[-1]]


def test_things_that_turn_move_and_film_are_part_of_a_scene():
    scenes = ["A drone stands on a lawn.", "Dancers turn in circles on a stage.", "An old film projector stands in a dusty room.",
              "A car turns left at the corner.", "A cyclist rides past a row of houses.", "A photographer holds a camera."]  # fmt: skip
    assert [mentions_camera_motion(scene) for scene in scenes] == [[]] * len(scenes)
