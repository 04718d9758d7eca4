"""Vision-language models run here: tiny ones of the real classes, loaded offline from directories."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_vlms
import torch
from few import few
from PIL import Image

from csp_index.errors import ProposerError, SettingError
from csp_index.proposers.grids import Layout
from csp_index.proposers.local_vlm import LocalModel
from csp_index.proposers.prompts import Prompt
from csp_index.proposers.proposer import Answer, Question
from csp_index.proposers.transformers_vlm import ChatModel, Message, Reply
from csp_index.records import NeuronKey

PROMPT = Prompt("short", "{examples} beside {contrasts}: name it", "{examples}: name it")
LAYOUT = Layout("two", columns=2, cell=16)
COLOURS = ("red", "blue", "lime", "white", "black", "orange")
TAUGHT = {"red": '["red star"]', "blue": '["blue dot"]'}


@pytest.fixture(scope="session")
def loaded(saved: Callable[[str], Path]) -> Callable[..., LocalModel]:
    """Return a family's tiny model as a proposer with a batch; the model itself is loaded once."""
    models: dict[str, LocalModel] = {}

    def proposer(family: str, batch: int = 1) -> LocalModel:
        if family not in models:
            models[family] = local(saved(family))
        models[family].batch = batch
        return models[family]

    return proposer


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """A tiny LLaVA, trained for seconds to name the colour of its pictures in a JSON list."""
    directory = tiny_vlms.save_vlm(tmp_path_factory.mktemp("taught") / "llava", "llava", shaken=False)
    model = local(directory, layout=Layout("one", columns=2, cell=16))
    teach(model)
    return model


def teach(model: LocalModel) -> None:
    chat: Any = model._model
    chat._model.requires_grad_(True)
    optimiser = torch.optim.Adam(chat._model.parameters(), lr=1e-2)
    said = [model._message(question(number, colour)) for number, colour in enumerate(TAUGHT)]
    answers = [TAUGHT[colour] + "<eos>" for colour in TAUGHT]
    width = len(chat._tokenizer(answers[0], add_special_tokens=False)["input_ids"])
    written = [chat._write(1, message.text, chat._form) + answer for message, answer in zip(said, answers, strict=True)]
    pictures = [[chat._fit(picture) for picture in message.pictures] for message in said]
    inputs = chat._processor(text=written, images=pictures, padding=True, add_special_tokens=False, return_tensors="pt")
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -width:] = inputs["input_ids"][:, -width:]
    for _ in range(100):
        loss = chat._model(**inputs, labels=labels).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if loss < 0.01:
            break
    chat._model.requires_grad_(False)


def local(directory: Path, *, layout: Layout = LAYOUT, **options: Any) -> LocalModel:
    options = {"new_tokens": 8, "batch": 1, "device": "cpu", **options}
    return LocalModel(f"transformers:{directory}", PROMPT, layout, **options)


def question(number: int, colour: str = "red", images: int = 2, contrasts: int = 0) -> Question:
    other = COLOURS[(COLOURS.index(colour) + 1) % len(COLOURS)]
    return Question(
        NeuronKey("net", "layer", number),
        tuple(Image.new("RGB", (20, 20), colour) for _ in range(images)),
        tuple(Image.new("RGB", (20, 20), other) for _ in range(contrasts)),
    )


def by_neuron(answers: Iterator[Answer]) -> dict[int, Answer]:
    return {answer.neuron.neuron: answer for answer in answers}


@pytest.mark.parametrize("family", few(tiny_vlms.FAMILIES, 1))
def test_a_question_gets_the_same_answer_alone_and_in_a_batch(family: str, loaded: Callable[..., LocalModel]) -> None:
    model = loaded(family)
    equal = [question(number, colour, 4, 4) for number, colour in enumerate(COLOURS[:3])]
    # Grids of 1 x 1 to 2 x 5 cells, one picture or two, prompts of other lengths.
    shapes = ((1, 0), (2, 2), (10, 10), (3, 0), (5, 1))
    unequal = [question(10 + number, COLOURS[number], *shape) for number, shape in enumerate(shapes)]
    alone = by_neuron(model.ask([*equal, *unequal]))
    for asked in (equal, unequal):
        model.batch = len(asked)
        for number, answer in by_neuron(model.ask(asked)).items():
            assert answer.state != "failed", answer.reason
            assert answer.raw == alone[number].raw
            assert answer.prompt_tokens == alone[number].prompt_tokens
            assert answer.completion_tokens == alone[number].completion_tokens
    assert len({answer.raw for answer in alone.values()}) > 1  # the pictures count


@pytest.mark.parametrize("family", tiny_vlms.FAMILIES)
def test_two_grids_are_two_pictures_or_one_by_the_model(family: str, loaded: Callable[..., LocalModel]) -> None:
    model = loaded(family)
    style = "composed" if family == "llava" else "two"
    assert model.layout.style == style
    assert f"{style}, 2 columns of 16 px" in model.prompt
    written = model._model._inputs([model._message(question(1, contrasts=2))])
    assert int((written["input_ids"] == model._model._tokenizer.bos_token_id).sum()) == 1  # the template's, alone
    token = {"gemma3": "boi_token", "internvl": "start_image_token"}.get(family, "image_token")
    count = int((written["input_ids"] == getattr(model._model._tokenizer, f"{token}_id")).sum())
    assert (count >= 2) if style == "two" else count == 16


def test_a_json_list_is_parsed_and_kept_raw(taught: LocalModel) -> None:
    taught._new_tokens, taught.batch = 32, 3
    asked = [question(number, colour) for number, colour in enumerate(("blue", "red", "red", "blue", "red"))]
    answers = list(taught.ask(asked))
    assert [answer.neuron for answer in answers] == [one.neuron for one in asked]
    for number, answer in by_neuron(iter(answers)).items():
        raw = TAUGHT["blue" if number in (0, 3) else "red"]
        assert (answer.state, answer.raw) == ("answered", raw)
        assert answer.texts == tuple(json.loads(raw))
        assert answer.completion_tokens == len(raw) + 1  # the token that ends it
        assert (answer.requests, answer.scores, answer.reason) == (1, (), "")
        assert answer.prompt_tokens > 16 and answer.seconds > 0


def test_an_answer_that_was_cut_is_unparsed_and_says_so(taught: LocalModel) -> None:
    taught._new_tokens = 6
    answer = next(taught.ask([question(1)]))
    assert (answer.state, answer.raw, answer.texts) == ("unparsed", TAUGHT["red"][:6], ())
    assert "stopped after 6 new tokens" in answer.reason
    assert answer.completion_tokens == 6


def test_a_list_of_lines_that_was_cut_may_end_in_half_a_word(
    loaded: Callable[..., LocalModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("llava")
    for cut, texts in ((True, ("red star",)), (False, ("red star", "blue pat"))):
        monkeypatch.setattr(model._model, "say", lambda *_, cut=cut: [Reply("- red star\n- blue pat", 9, 8, cut)])
        answer = next(model.ask([question(1)]))
        assert (answer.state, answer.texts) == ("answered", texts)
        assert ("the last line of the answer is left out (stopped after" in answer.reason) == cut


def test_settings_of_sampling_that_come_with_a_model_are_left_aside(llava: Path) -> None:
    plain = next(local(llava).ask([question(1)])).raw
    file = llava / "generation_config.json"
    sampling = {"do_sample": True, "temperature": 5.0, "top_k": 0, "repetition_penalty": 9.0, "max_length": 3}
    file.write_text(json.dumps({**json.loads(file.read_text()), **sampling}))
    assert next(local(llava).ask([question(1)])).raw == plain


def test_the_revision_is_of_weights_and_preparation(
    llava: Path, loaded: Callable[..., LocalModel], tmp_path: Path
) -> None:
    first = local(llava).revision
    assert first == loaded("llava").revision  # wherever it lies
    other = tiny_vlms.save_vlm(tmp_path / "other", "llava", seed=1)
    weights, preparation = local(other).revision.split("+")
    assert weights != first.split("+")[0] and preparation == first.split("+")[1]
    (llava / "chat_template.jinja").write_text(tiny_vlms.chat_template("<image> "))
    weights, preparation = local(llava).revision.split("+")
    assert weights == first.split("+")[0] and preparation != first.split("+")[1]


def test_weights_of_half_precision_run_in_float32_on_the_cpu_under_the_hash_of_what_is_stored(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import LlavaForConditionalGeneration

    from csp_index.models.weights import hash_weights

    directory = shutil.copytree(saved("llava"), tmp_path / "half")
    half = LlavaForConditionalGeneration.from_pretrained(directory, dtype=torch.bfloat16)
    half.save_pretrained(directory)
    model = local(Path(directory))
    assert model._model._model.dtype == torch.float32
    assert model.revision.startswith(hash_weights(half) + "+")
    assert next(model.ask([question(1)])).state == "unparsed"


def test_nothing_is_cut_off_a_grid_that_is_not_square(loaded: Callable[..., LocalModel]) -> None:
    model = loaded("llava")
    wide = Image.new("RGB", (120, 30), "black")
    wide.paste((255, 0, 0), (0, 0, 20, 30))
    wide.paste((0, 0, 255), (100, 0, 120, 30))
    red, _, blue = model._model._inputs([Message([wide], "?")])["pixel_values"][0]
    row = red.shape[0] // 2
    assert red[row, 1] > blue[row, 1] and blue[row, -2] > red[row, -2]


def test_a_neuron_at_fault_fails_alone(loaded: Callable[..., LocalModel]) -> None:
    model = loaded("llava", batch=4)
    asked = [question(0), question(1), question(2, images=0), question(3), question(4)]
    answers = by_neuron(model.ask(asked))
    assert {number for number, answer in answers.items() if answer.state == "failed"} == {2}
    assert "no activating image" in answers[2].reason and len(answers) == 5


def test_a_prompt_longer_than_the_context_is_a_failure_of_its_neuron(tmp_path: Path) -> None:
    directory = tiny_vlms.save_vlm(tmp_path / "short", "internvl", context=70)
    model = local(directory, batch=2)
    # Each 1 x 4 grid is looked at in five pieces.
    answers = by_neuron(model.ask([question(1, images=1), question(2, images=16, contrasts=16)]))
    assert answers[1].state == "unparsed" and answers[1].prompt_tokens <= 62
    assert answers[2].state == "failed"
    assert "the model's limit is 70" in answers[2].reason and "smaller cells" in answers[2].reason


def test_short_memory_halves_the_batch_for_good(
    loaded: Callable[..., LocalModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("llava", batch=4)
    inner, sizes = model._model._model, []
    generate = inner.generate

    def short(**inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return generate(**inputs)

    monkeypatch.setattr(inner, "generate", short)
    answers = by_neuron(model.ask([question(number) for number in range(6)]))
    assert sorted(answers) == list(range(6)) and all(answer.state == "unparsed" for answer in answers.values())
    assert model.batch == 1 and sizes == [4, 2, 1, 1, 2, 1, 1, 1, 1]


def test_a_neuron_too_large_for_memory_is_a_failure_and_the_run_goes_on(
    loaded: Callable[..., LocalModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("qwen2_5_vl", batch=2)
    inner = model._model._model
    generate = inner.generate

    def short(**inputs: Any) -> Any:
        if len(inputs["image_grid_thw"]) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return generate(**inputs)

    monkeypatch.setattr(inner, "generate", short)
    answers = by_neuron(model.ask([question(1), question(2, contrasts=2), question(3)]))
    assert [answers[number].state for number in (1, 2, 3)] == ["unparsed", "failed", "unparsed"]
    assert "out of memory on cpu" in answers[2].reason and "\n" not in answers[2].reason


def test_questions_are_taken_a_batch_at_a_time(loaded: Callable[..., LocalModel]) -> None:
    model, taken = loaded("llava", batch=2), []

    def questions() -> Iterator[Question]:
        for number in range(6):
            taken.append(number)
            yield question(number)

    next(iter(model.ask(questions())))
    assert taken == [0, 1]


def test_without_a_chat_template_the_prompt_follows_the_placeholder(llava: Path) -> None:
    (llava / "chat_template.jinja").unlink()
    model = local(llava)
    assert model._model._write(1, "what?", model._model._form) == "<image>\nwhat?"
    assert next(model.ask([question(1)])).state == "unparsed"


def test_a_chat_template_of_plain_strings_gets_the_placeholder_in_its_text(llava: Path) -> None:
    (llava / "chat_template.jinja").write_text("{% for m in messages %}USER: {{ m['content'] }} ASSISTANT:{% endfor %}")
    model = local(llava)
    assert model._model._write(1, "what?", model._model._form) == "USER: <image>\nwhat? ASSISTANT:"


def test_a_model_that_may_think_first_is_told_not_to(llava: Path) -> None:
    template = tiny_vlms.chat_template("<image>") + "{% if enable_thinking is not false %}<think>{% endif %}"
    (llava / "chat_template.jinja").write_text(template)
    model = local(llava)
    assert model._model._write(1, "?", model._model._form).endswith("<assistant>")


def test_a_model_in_the_cache_of_a_hub_is_pinned_by_its_commit(
    saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--tiny--llava"
    shutil.copytree(saved("llava"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model = ChatModel("transformers:tiny/llava", device="cpu")
    assert model.name == "transformers:tiny/llava"
    assert model.revision == f"{local(saved('llava')).revision}@{commit}"


def test_an_unknown_device_and_a_wrong_count_are_refused(llava: Path) -> None:
    with pytest.raises(SettingError, match="device 'gpu' is unknown"):
        local(llava, device="gpu")
    with pytest.raises(SettingError, match="setting vlm_batch is 0"):
        local(llava, batch=0)
    with pytest.raises(ProposerError, match="0 concepts of 4 words"):
        local(llava, concepts=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_a_model_runs_in_half_precision(saved: Callable[[str], Path]) -> None:
    model = local(saved("qwen2_5_vl"), device="cuda", batch=2)
    assert model._model._model.dtype in (torch.bfloat16, torch.float16)
    assert model.revision == local(saved("qwen2_5_vl")).revision
    answers = list(model.ask([question(1, contrasts=2), question(2)]))
    assert all(answer.state != "failed" for answer in answers)
