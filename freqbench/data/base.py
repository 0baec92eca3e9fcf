"""Defines the interface of every dataset: case references that are cheap to list, cases on the preprocessed grid."""

import abc
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from freqbench.core import names
from freqbench.core.code import provenance
from freqbench.core.config import Strict
from freqbench.core.errors import DataError, UserError, unknown
from freqbench.core.identity import digest
from freqbench.core.input_space import Preprocess
from freqbench.core.interrupt import limit_time
from freqbench.core.types import Case, CaseRef, FileLabel, NativeCase, Reference, Shape
from freqbench.data import nsd_tolerances
from freqbench.data.labels import few
from freqbench.data.patients import alike, counted_patients, usual_patient
from freqbench.data.preprocess import check_room, prepare, prepared_shape
from freqbench.ops.classes import Classes
from freqbench.pipelines import AnySpace

ClassName = Annotated[str, Field(min_length=1)]
Pattern = Annotated[str, Field(min_length=1, max_length=1000)]
AS_GIVEN = Preprocess(intensity={"window": (0.0, 1.0)}, crop_foreground=False)
"""The space of a class that states none: intensities from 0 to 1, and the extent, stay."""
MATCH_S = 0.2  # a match takes microseconds, but by some patterns, such as (a+)+$, years; memory grows meanwhile


def match_in_time(match: Callable[[str], re.Match[str] | None], name: str, what: str) -> re.Match[str] | None:
    """Returns the match of a name by a pattern of a job, which `what` describes; DataError if that takes too long."""
    try:
        with limit_time(MATCH_S):
            return match(name)
    except TimeoutError:
        advice = "write it with fewer repeats, and none in another, as + is in (a+)+"
        got = f"got one that takes more than {MATCH_S} s on a name of {len(name)} letters: {advice}"
        raise DataError(f"{what}: expected a pattern that is matched at once, {got}") from None


def case_key_of(recipe: Mapping[str, Any], fingerprint: str) -> str:
    """Returns the key of a case: 16 hex digits of its dataset's whole recipe and of the content of its files by its
    `fingerprint`."""
    return digest([recipe, fingerprint])


class Dataset(Strict, abc.ABC):
    """A named source of cases; subclasses find and read the cases, and define the space in which they are attacked.

    Attributes:
        name: name in tables; no part of any identity.
        split: the dataset's split that `refs` lists.
        cases: only the first N, or only these case ids (in this order); None for all.
        loader: the dataset's key in DATASETS.
        reference: `label`: predictions are scored against the label maps; `prediction`: each model's against its own
            prediction of the clean volume (agreement), for which no label map is needed or read.
        patient: a regular expression to be found in each case's name: its group `patient`, else its first group, else
            all that it finds is the patient, of whom several cases may be; None: as the list states, else by the usual
            names (`sub-01_ses-02`, `BraTS-GLI-00099-001`, `patient001_frame01`, `case_07_post`). Part of no identity.
        share: false forbids passing on any volume or picture of its cases, even if the licence allows it.
        redistributable: True if the licence of the loader's data allows passing volumes on.
        homepage: where to get its volumes.
        typical_shape: voxels of a case on the preprocessed grid, for estimates without the cases.
    """

    loader: ClassVar[str]
    redistributable: ClassVar[bool] = True
    homepage: ClassVar[str] = ""
    typical_shape: ClassVar[Shape] = (200, 200, 120)

    name: str
    split: str = "test"
    cases: Annotated[int, Field(ge=1)] | tuple[str, ...] | None = None
    reference: Reference = "label"
    patient: Pattern | None = None
    share: bool = True

    @field_validator("cases", mode="before")
    @classmethod
    def _is_no_single_word(cls, given: object) -> object:
        if isinstance(given, str):  # `010` would count cases, where the case of this name is meant
            raise ValueError(f"expected a number of cases or a list of their ids, got {given!r}: write [{given}]")
        return given

    @field_validator("patient")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"expected a regular expression, got {value!r:.160}: {error}") from None
        return value

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        if cls.class_names is Dataset.class_names and cls.classes is Dataset.classes:  # of which each asks the other
            cls.__abstractmethods__ |= {"class_names"}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in order of their label, background first; a class states these, or its `classes`."""
        return self.classes.names

    @property
    def classes(self) -> Classes:
        """Classes of these names, which exclude each other; others state regions and more."""
        return Classes(names=self.class_names, tolerances_mm=nsd_tolerances.organ_tolerances(self.class_names[1:]))

    @abc.abstractmethod
    def recipe(self) -> dict[str, Any]:
        """Returns all that changes a `Case` beside its files' content: loader, revision, preprocessing, labels."""

    def whole_recipe(self) -> dict[str, Any]:
        """Returns the recipe, a `reference` other than the label, and the code of a class of another package."""
        agreement = {} if self.reference == "label" else {"reference": self.reference}
        foreign = provenance(type(self))
        as_given = {"space": AS_GIVEN.identity()} if foreign and self.is_as_given else {}
        return {**self.recipe(), **agreement, **foreign, **as_given}

    @abc.abstractmethod
    def refs(self, split: str | None = None) -> tuple[CaseRef, ...]:
        """Returns the cases of a split (default: `self.split`), limited by `cases`, after checks that read no voxels.
        Raises DataError if a split, file, header or case id is wrong."""

    @abc.abstractmethod
    def native(self, ref: CaseRef) -> NativeCase:
        """Reads case `ref` of any split as its files hold it; raises DataError for damaged or mismatched files."""

    def file_label(self, ref: CaseRef) -> FileLabel:
        """Reads the label map of case `ref` of any split as its file holds it; raises as `native`."""
        native = self.native(ref)
        return FileLabel(label=native.label, affine=native.affine, spacing=native.spacing)

    def require_labels(self, what: str, why: str) -> None:
        """Refuses what needs label maps (`why`: a clause that begins with a relative pronoun) without them."""
        if self.reference == "prediction":
            got = f"got {self.name} with reference: prediction: drop one"
            raise UserError(f"{what}: expected a dataset with labels, {why}, {got}")

    @property
    def may_be_shared(self) -> bool:
        """True if volumes and pictures of its cases may be passed on."""
        return self.redistributable and self.share

    @property
    def num_channels(self) -> int:
        """Channels of every image."""
        return 1

    @property
    def space(self) -> Preprocess:
        """The space in which cases are attacked and scored, unless a model has its own: here as `native` gives them."""
        return AS_GIVEN

    @property
    def is_as_given(self) -> bool:
        """True if the class states no `space`."""
        return type(self).space is Dataset.space

    def load(self, ref: CaseRef, space: AnySpace | None = None) -> Case:
        """Reads (see `native`) and preprocesses case `ref` of any split; `space` is a model's own, None the dataset's.
        Raises DataError for intensities beyond 0 to 1 where neither a model nor the class states a space."""
        space = space or self.space
        native = self.native(ref)
        if not (self.is_as_given and space == AS_GIVEN):
            return prepare(native, space, classes=self.classes)
        low, high = (float(bound) for bound in native.image.aminmax())
        if not 0 <= low <= high <= 1:
            raise DataError(
                f"{self.name}: {ref.case_id}: expected intensities from 0 to 1 of a class that states no `space`, got "
                f"{low:g} to {high:g}: give it one that says which become 0 and 1, such as Preprocess(intensity="
                "{'window': [-175, 250]}, crop_foreground=False)"
            )
        return replace(prepare(native, space, classes=self.classes), off_scale=())

    def shape_in(self, ref: CaseRef, space: AnySpace | None) -> Shape:
        """Returns the voxels of case `ref` in a space (None, or no `grid`: the dataset's) before cropping, an upper
        bound, unread. Raises DataError if the voxels do not fit in memory."""
        if space is None or ref.grid is None:
            return ref.shape
        check_room(f"{self.name}: {ref.case_id}", ref.grid, space, self.num_channels, ref.axes)
        return prepared_shape(*ref.grid, space, ref.axes)

    def patient_of(self, case_id: str, stated: str | None = None) -> str:
        """Returns the patient of a case: by `patient`, as a list has `stated` it (None, or empty: it has not), or by
        the name `case_id`; raises DataError if wrong or too long."""
        for text in (case_id, stated or ""):
            if len(text) > names.LONGEST:
                raise DataError(
                    f"{self.name}: expected names of cases and patients of at most {names.LONGEST} letters, got "
                    f"{len(text):,}: rename it"
                )
        if self.patient is None:
            return stated or usual_patient(case_id)
        pattern = re.compile(self.patient)
        match = match_in_time(pattern.search, case_id, f"{self.name}: patient: {self.patient!r:.160}")
        patient = match and match["patient" if "patient" in pattern.groupindex else min(1, pattern.groups)]
        if not patient:
            got = f"got {self.patient!r}, which finds none in {case_id}: change it"
            raise DataError(f"{self.name}: expected a `patient` that finds a patient in every case's name, {got}")
        return str(patient)

    @cached_property
    def guesses(self) -> dict[str, dict[str, None]]:
        """Sentences on guesses about the files that were listed or read, each with the files that it is of, if some."""
        return {}

    def remarks(self, patients: Sequence[str]) -> Iterator[str]:
        """Yields one line per guess about its files and patients to look at, given the patient of each case."""
        if self.patient is None and (found := alike(patients)):
            advice = "give the key `patient` a pattern, as intervals are over patients"
            rest = f"but names such as {', '.join(found[:3])} look as if they shared a patient: {advice}"
            yield f"{self.name}: {counted_patients(patients)}, {rest}"
        for guess, files in self.guesses.items():
            yield f"{self.name}: {f'{few([*files], 3)}: ' if files else ''}{guess}"

    def case_key(self, ref: CaseRef) -> str:
        """Returns 16 hex digits of the recipe and the files of case `ref`, so that adding a case changes no other."""
        return case_key_of(self.whole_recipe(), ref.fingerprint)

    def other(self, ref: CaseRef, seed: int, split: Sequence[CaseRef] | None = None) -> CaseRef:
        """Returns another case of the split by the seed and the content of case `ref`, whatever `cases` is: a new case
        replaces few. `split` is `whole_split`, if known. Raises DataError if there is none."""
        if not (others := [other for other in split or self.whole_split() if other.case_id != ref.case_id]):
            raise DataError(
                f"{self.name}: expected another case beside {ref.case_id} in the split {self.split!r}, which an attack "
                "takes as its reference, got none: choose a split of two cases or more"
            )
        return max(others, key=lambda other: digest(["reference", seed, ref.fingerprint, other.fingerprint]))

    @cached_property
    def references(self) -> str:
        """16 hex digits of all that `other` draws from: the content of the split's cases, in any order."""
        return digest(sorted(ref.fingerprint for ref in self.whole_split()))

    def whole_split(self) -> tuple[CaseRef, ...]:
        """Returns all cases of the split, ignoring `cases`."""
        return self.model_copy(update={"cases": None}).refs()

    def chosen(self, case_ids: Sequence[str]) -> Sequence[str]:
        """Returns those of the `case_ids` of a split that `cases` selects."""
        if self.cases is None:
            return case_ids
        if isinstance(self.cases, int):
            if self.cases > len(case_ids):
                raise DataError(f"{self.name}: expected at most {len(case_ids)} `cases`, got {self.cases}: take fewer")
            return case_ids[: self.cases]
        for number, case_id in enumerate(self.cases):
            if case_id not in case_ids:
                raise DataError(f"{self.name}: {unknown('case', case_id, case_ids)}")
            if case_id in self.cases[:number]:
                raise DataError(f"{self.name}: expected each of `cases` once, got {case_id!r} twice: remove one")
        return self.cases
