import pytest
import yaml

from moworld.errors import InputError
from pipelines import profile


@pytest.mark.parametrize("name", profile.names())
def test_every_profile_that_is_carried_is_whole_and_has_five_stages(name):
    found, settings = profile.load(name)
    assert found == name
    frames = [stage.frames for stage in settings.curriculum]
    assert len(frames) == 5 and frames == sorted(frames)
    assert all(number % 4 == 1 for number in frames)


def test_set_overrides_one_value_and_leaves_the_rest():
    before, after = (
        profile.load("pocket")[1],
        profile.load("pocket", ["distill.steps=3", "curriculum.0.optimizer.lr=0.5", "data.videos=clips"])[1],
    )
    assert (after.distill.steps, after.curriculum[0].optimizer.lr, after.data.videos) == (3, 0.5, "clips")
    assert after.curriculum[1:] == before.curriculum[1:] and after.model == before.model


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("distil.steps=3", "did you mean 'distill'"),
        ("distill.stepps=3", "did you mean 'steps'"),
        ("data.game.train_map=[MAP01]", "did you mean 'train_maps'"),
        ("curriculum.0.frame=5", "did you mean 'frames'"),
        ("curriculum.9.frames=5", "an index from 0 to 4"),
        ("distill.steps=many", "distill.steps"),
        ("distill.steps", "KEY=VALUE"),
        ("seed.more=1", "seed"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_the_key_and_the_mend(override, words):
    with pytest.raises(InputError) as caught:
        profile.load("pocket", [override])
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_profile_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(InputError, match="did you mean 'pocket'"):
        profile.load("pockett")
    path = tmp_path / "mine.yaml"
    path.write_text("a: [")
    with pytest.raises(InputError, match="not YAML"):
        profile.load(str(path))
    path.write_text("- a")
    with pytest.raises(InputError, match="mapping"):
        profile.load(str(path))


def test_a_profile_survives_the_run_record():
    settings = profile.load("pocket")[1]
    again = profile.parse(yaml.safe_load(yaml.safe_dump(settings.model_dump(mode="json"))), "run.json")
    assert again == settings
    assert profile.text(again.model) == profile.text(settings.model)
