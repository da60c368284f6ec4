"""The ``data`` section: where records come from, what they say, who holds them, and what is held out.

Everything here is public. In particular the seeds of a partition simulate silos and protect nobody.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from privet.config_section import Section
from privet.values import as_text

Domain: TypeAlias = Literal["tweets", "movie", "amazon", "nyt"]
DOMAINS: tuple[Domain, ...] = ("tweets", "movie", "amazon", "nyt")
GROUPED_DOMAINS: frozenset[Domain] = frozenset({"amazon", "nyt"})
"""Domains whose sentences carry the number of the review or article that they are from."""


class PromptTemplate(Section):
    """Plain text: a prompt and the completion to learn."""

    kind: Literal["prompt"] = Field(default="prompt", description="Prompt and completion as plain text.")
    prompt: str = Field(
        default="{prompt}",
        description="Text before the completion; `{column}` stands for a column, `{{` for a brace.",
    )
    completion: str = Field(
        default="{completion}", description="Text that is learned, written like `prompt`."
    )
    end_of_text: bool = Field(
        default=True,
        description="Whether the tokenizer's end-of-text token closes the completion and is learned.",
    )


class ChatTemplate(Section):
    """A conversation in the form of the tokenizer's own chat template; the last assistant turn is learned."""

    kind: Literal["chat"] = Field(description="The tokenizer's chat template.")
    system: str | None = Field(
        default=None, description="System message; without one the tokenizer's template decides."
    )
    prompt: str = Field(default="{prompt}", description="The user's turn, written like a prompt template.")
    completion: str = Field(default="{completion}", description="The assistant's turn, which is learned.")
    messages: str | None = Field(
        default=None,
        description=(
            "Column with a whole conversation as a list of `{role, content}`, the last one by `assistant`; "
            "`prompt` and `completion` are then unused."
        ),
    )


class ClassificationTemplate(Section):
    """Classification by verbalisers: each label has a word, and only that word is learned."""

    kind: Literal["classification"] = Field(
        description="A label out of a fixed list, as a word after the prompt."
    )
    prompt: str = Field(
        default="{text}", description="Text before the verbaliser; `{column}` stands for a column."
    )
    label: str = Field(default="label", description="Column that holds the label.")
    verbalisers: dict[str, str] = Field(
        min_length=2,
        description="Word for each label, e.g. `{0: ' bad', 1: ' good'}`; mind the leading space.",
    )

    compare: Literal["auto", "verbalisers", "vocabulary"] = Field(
        default="auto",
        description=(
            "What the right word is compared with in training: the other verbalisers, so that the gradient says "
            "which label it is, or the whole vocabulary. `auto` takes the verbalisers where each is one token."
        ),
    )

    @field_validator("verbalisers", mode="before")
    @classmethod
    def _labels_as_text(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        if any(key is None or isinstance(key, bool) for key in value):
            raise ValueError(
                "a label is no text or number: YAML takes yes, no, on, off, true, false and null for something "
                'else unless they are quoted. Write "yes": " yes", in quotes as the data spell it'
            )
        # YAML reads 0 and 1 as numbers; labels are compared as text, written as they are read out of rows.
        labels = {as_text(key) or str(key): word for key, word in value.items()}
        if len(labels) < len(value):
            raise ValueError("a label stands twice, once as a number and once as text")
        return labels

    @model_validator(mode="after")
    def _distinct(self) -> ClassificationTemplate:
        words = list(self.verbalisers.values())
        if len(set(words)) != len(words) or not all(words):
            raise ValueError("verbalisers must be distinct and not empty")
        return self


Template: TypeAlias = Annotated[
    PromptTemplate | ChatTemplate | ClassificationTemplate, Field(discriminator="kind")
]

SENTIMENT_TEMPLATE = ClassificationTemplate(
    kind="classification",
    prompt="Text: {text}\nSentiment:",
    label="label",
    verbalisers={"0": " negative", "1": " positive"},
)


class ColumnPartition(Section):
    """One silo for each value of a column, such as a hospital's name."""

    kind: Literal["column"] = Field(description="One silo for each value of a column.")
    column: str = Field(description="Column whose values name the silos.")


class FilePartition(Section):
    """One silo for each file, named like the file."""

    kind: Literal["file"] = Field(description="One silo for each file.")


class IidPartition(Section):
    """Records dealt to silos at random, in equal shares."""

    kind: Literal["iid"] = Field(description="Records dealt at random in equal shares.")
    silos: int = Field(ge=1, description="Number of silos.")
    seed: int = Field(default=0, ge=0, description="Public seed of the dealing.")


class DirichletPartition(Section):
    """Label skew: each label's records in shares drawn from Dirichlet(alpha) (arXiv 1905.12022)."""

    kind: Literal["dirichlet"] = Field(description="Each label's records shared out by a Dirichlet draw.")
    silos: int = Field(ge=1, description="Number of silos.")
    alpha: float = Field(gt=0, description="Concentration: 0.1 is very skewed, 100 nearly equal.")
    column: str | None = Field(default=None, description="Column to skew by; the record's label when absent.")
    minimum_records: int = Field(
        default=1,
        ge=1,
        description="Draws that leave a silo with fewer records are drawn again, at most 1000 times.",
    )
    seed: int = Field(default=0, ge=0, description="Public seed of the draw.")


class BlockPartition(Section):
    """Many silos: each value of a column is cut into blocks of whole groups, in proportion to its records."""

    kind: Literal["blocks"] = Field(description="Values of a column cut into blocks of whole groups.")
    column: str = Field(default="domain", description="Column within whose values blocks are cut.")
    silos: int = Field(ge=1, description="Number of silos over all values of the column.")
    seed: int = Field(default=0, ge=0, description="Public seed of the order in which groups are dealt.")


class GroupPartition(Section):
    """One silo for each group, e.g. one client an article (cross-device simulation)."""

    kind: Literal["group"] = Field(description="One silo for each group.")
    minimum_records: int = Field(
        default=1, ge=1, description="Groups with fewer records are left out, and that is reported."
    )


Partition: TypeAlias = Annotated[
    ColumnPartition | FilePartition | IidPartition | DirichletPartition | BlockPartition | GroupPartition,
    Field(discriminator="kind"),
]


class Split(Section):
    """Shares of the groups (of the records, without groups) held out, chosen by a hash of the group."""

    test: float = Field(default=0.1, ge=0, le=0.5, description="Share of the groups held out as test data.")
    validation: float = Field(
        default=0.0, ge=0, le=0.5, description="Share held out as validation data; they stay at their silo."
    )
    public: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="Share declared public: choosing learning rates and fitting codecs on it is free.",
    )
    group: str | None = Field(
        default=None,
        description=(
            "Column that says which records belong together (a person, an item): no group is divided "
            "between the parts. Without one, only copies of a text stay together."
        ),
    )
    seed: int = Field(default=0, ge=0, description="Public seed of the hash.")


class _Source(Section):
    max_length: int = Field(
        default=128,
        ge=8,
        description="Tokens a record may have, in steps of 16 no more than the model has positions. Longer prompts "
        "lose their beginning, which is reported.",
    )


class SentimentData(_Source):
    """The embedded data: sentences of four domains with sentiment scores (Hutto and Gilbert, ICWSM 2014)."""

    kind: Literal["sentiment"] = Field(
        default="sentiment", description="The embedded data; see `privet fetch`."
    )
    domains: tuple[Domain, ...] = Field(default=DOMAINS, min_length=1, description="Domains to use.")
    minimum_score: float = Field(
        default=1.0,
        ge=0,
        le=4,
        description="Sentences with a mean score (-4 to 4) closer to 0 are dropped; the sign is the label.",
    )
    remove_near_duplicates: bool = Field(
        default=True,
        description="Whether to remove tweets and film reviews that share half of their word triples.",
    )
    template: Template = Field(default=SENTIMENT_TEMPLATE, description="How a record becomes text.")
    partition: Partition = Field(
        default=ColumnPartition(kind="column", column="domain"), description="Who holds which records."
    )
    split: Split = Field(default=Split(test=0.09, public=0.04), description="What is held out.")

    @property
    def test_public(self) -> bool:
        """Always true: these data are published."""
        return True

    @model_validator(mode="after")
    def _known_groups(self) -> SentimentData:
        if self.split.group is not None:
            raise ValueError("the embedded data bring their groups; leave split.group out")
        if self.partition.kind == "group" and not set(self.domains) <= GROUPED_DOMAINS:
            raise ValueError("partition 'group' needs domains with groups: [amazon], [nyt] or both")
        if self.partition.kind == "group" and self.split.validation > 0:
            raise ValueError(
                "with partition 'group', split.validation must be 0: held-out groups have no silo"
            )
        if self.partition.kind == "file":
            raise ValueError("partition 'file' needs your own files; here use column 'domain'")
        return self


class _UserData(_Source):
    remove_near_duplicates: bool = Field(
        default=False,
        description=(
            "Whether to remove records without a group that share half of their word triples with another. "
            "It looks at several records at once: the privacy guarantee is for the data after it."
        ),
    )
    template: Template = Field(default=PromptTemplate(), description="How a row becomes text.")
    partition: Partition = Field(
        default=IidPartition(kind="iid", silos=1), description="Who holds which records."
    )
    split: Split = Field(default=Split(), description="What is held out when there is no separate test data.")
    test_public: bool = Field(
        default=False,
        description=(
            "Declares the test data public, so that exact metrics on them may leave a silo."
            " Otherwise they stay there."
        ),
    )

    @model_validator(mode="after")
    def _test_has_a_silo(self) -> _UserData:
        separate = self._separate_test_data()
        held_out = separate or self.split.test > 0
        if self.partition.kind == "group" and (
            self.split.validation > 0 or (held_out and not self.test_public)
        ):
            raise ValueError(
                "with partition 'group', held-out groups have no silo to stay at: set split.validation to 0, "
                "and test_public to true or split.test to 0"
            )
        if self.partition.kind == "file" and separate and not self.test_public:
            raise ValueError(
                "with partition 'file', separate test files have no silo to stay at: set test_public to "
                "true, or use split.test instead of test_path"
            )
        return self

    def _separate_test_data(self) -> bool:
        return False


class _FileData(_UserData):
    path: str = Field(min_length=1, description="File, or several by a pattern such as `sites/*.jsonl`.")
    test_path: str | None = Field(
        default=None, description="Files with test data; `split.test` is then unused and nothing is cut off."
    )
    public_path: str | None = Field(
        default=None, description="Files with data declared public, for learning rates and codecs."
    )

    def _separate_test_data(self) -> bool:
        return self.test_path is not None

    @model_validator(mode="after")
    def _paths_differ(self) -> _FileData:
        paths = [p for p in (self.path, self.test_path, self.public_path) if p is not None]
        if len({str(Path(p)) for p in paths}) != len(paths):
            raise ValueError("path, test_path and public_path must be different files")
        return self


class JsonlData(_FileData):
    """One JSON object a line."""

    kind: Literal["jsonl"] = Field(description="One JSON object a line.")


class CsvData(_FileData):
    """Comma-separated values with a header line."""

    kind: Literal["csv"] = Field(description="Comma-separated values with a header line.")
    delimiter: str = Field(default=",", min_length=1, max_length=1, description="Character between columns.")


class ParquetData(_FileData):
    """Apache Parquet; needs the extra `privet[data]`."""

    kind: Literal["parquet"] = Field(description="Apache Parquet; needs `privet[data]`.")


class HuggingFaceData(_UserData):
    """A data set of the Hugging Face hub, or one saved with ``save_to_disk``; needs `privet[data]`."""

    kind: Literal["huggingface"] = Field(description="A Hugging Face data set; needs `privet[data]`.")
    name: str = Field(min_length=1, description="Hub name, or a folder written by `save_to_disk`.")
    configuration: str | None = Field(default=None, description="Configuration (subset) of the data set.")
    revision: str | None = Field(default=None, description="Commit or tag; pin it.")
    train_split: str = Field(default="train", description="Split that silos train on.")
    test_split: str | None = Field(
        default=None, description="Split with test data; `split.test` is then unused and nothing is cut off."
    )

    def _separate_test_data(self) -> bool:
        return self.test_split is not None

    @model_validator(mode="after")
    def _no_files(self) -> HuggingFaceData:
        if self.partition.kind == "file":
            raise ValueError("partition 'file' needs data of kind jsonl, csv or parquet")
        return self


DataConfig: TypeAlias = Annotated[
    SentimentData | JsonlData | CsvData | ParquetData | HuggingFaceData, Field(discriminator="kind")
]
