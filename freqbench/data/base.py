"""Defines what every dataset offers: case references that are cheap to list, cases on the preprocessed grid."""

import abc
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar

from pydantic import Field

from freqbench.core.config import Strict
from freqbench.core.errors import DataError, unknown
from freqbench.core.identity import digest
from freqbench.core.input_space import Preprocess
from freqbench.core.plugins import provenance
from freqbench.core.types import Case, CaseRef, NativeCase, Shape
from freqbench.data import tolerances
from freqbench.data.preprocess import check_room, prepare, prepared_shape

ClassName = Annotated[str, Field(min_length=1)]


def case_key_of(recipe: Mapping[str, Any], fingerprint: str) -> str:
    """The key of a case: 16 hex digits of its dataset's whole recipe and the content of its files."""
    return digest([recipe, fingerprint])


class Dataset(Strict, abc.ABC):
    """A named source of cases; subclasses say how they are found and read, and in which space they are attacked.

    Attributes:
        name: what tables call it; no part of any identity.
        split: which of the dataset's splits `refs` lists.
        cases: only the first N, or only these case ids (in this order); None for all.
        loader: the dataset's key in DATASETS.
        share: false where no volume or picture of its cases may be passed on, though the licence would let them.
        redistributable: whether the licence of the loader's data lets volumes be passed on.
        homepage: where its volumes are to be had.
        typical_shape: voxels of a case on the preprocessed grid, for estimates where the cases are not there.
    """

    loader: ClassVar[str]
    redistributable: ClassVar[bool] = True
    homepage: ClassVar[str] = ""
    typical_shape: ClassVar[Shape] = (200, 200, 120)

    name: str
    split: str = "test"
    cases: Annotated[int, Field(ge=1)] | tuple[str, ...] | None = None
    share: bool = True

    @property
    @abc.abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in order of their label, background first."""

    @property
    def num_classes(self) -> int:
        """Number of classes including background."""
        return len(self.class_names)

    @property
    def tolerances_mm(self) -> tuple[float, ...]:
        """How far each foreground class's surface may be off for `nsd`: by its organ, else by TOLERANCE_MM."""
        return tuple(tolerances.of_organ(name) for name in self.class_names[1:])

    @abc.abstractmethod
    def recipe(self) -> dict[str, Any]:
        """All that changes a `Case` beside the content of its files: loader, revision, preprocessing, labels."""

    def whole_recipe(self) -> dict[str, Any]:
        """The recipe, and of a class of another package its source."""
        return {**self.recipe(), **provenance(type(self))}

    @abc.abstractmethod
    def refs(self, split: str | None = None) -> tuple[CaseRef, ...]:
        """The cases of a split (default: `self.split`) after checks that read no voxels; `cases` is honoured.

        Raises DataError where a split, file, header or case id is not what it should be.
        """

    @abc.abstractmethod
    def native(self, ref: CaseRef) -> NativeCase:
        """Read one case of any split as its files hold it; raises DataError where they are not what they should be."""

    @property
    def may_be_shared(self) -> bool:
        """Whether volumes and pictures of its cases may be passed on."""
        return self.redistributable and self.share

    @property
    def num_channels(self) -> int:
        """Channels of every image."""
        return 1

    @property
    def space(self) -> Preprocess:
        """The space in which cases are attacked and scored, unless a model has its own."""
        return Preprocess()

    def load(self, ref: CaseRef, space: Preprocess | None = None) -> Case:
        """Read (see `native`) and preprocess one case of any split; `space`: a model's own; None: the dataset's."""
        return prepare(self.native(ref), space or self.space)

    def faults(self, ref: CaseRef, space: Preprocess) -> Iterator[str]:
        """What is wrong with the voxels of a case for a space, a line each; nothing where they are made, not read."""
        yield from ()

    def shape_in(self, ref: CaseRef, space: Preprocess | None) -> Shape:
        """Voxels of a case in a space (None: the dataset's) before any cropping: an upper bound, without reading it.

        Where the case has no `grid`, those in the dataset's space. Raises DataError where they do not fit in memory.
        """
        if space is None or ref.grid is None:
            return ref.shape
        check_room(f"{self.name}: {ref.case_id}", ref.grid, space, self.num_channels)
        return prepared_shape(*ref.grid, space)

    def case_key(self, ref: CaseRef) -> str:
        """16 hex digits: the recipe and the content of the case's files, so that adding a case changes no other."""
        return case_key_of(self.whole_recipe(), ref.fingerprint)

    def other(self, ref: CaseRef, seed: int, split: Sequence[CaseRef] | None = None) -> CaseRef:
        """Another case of the split, drawn by the seed and the case's content: a reference for attacks that need one.

        `cases` has no say, and a case that joins the split replaces the reference of few. `split` is `whole_split`,
        where it is at hand: to list it reads every header. Raises DataError where it has no other case.
        """
        others = [other for other in split or self.whole_split() if other.case_id != ref.case_id]
        if not others:
            raise DataError(
                f"{self.name}: expected another case beside {ref.case_id} in the split {self.split!r}, which an attack "
                "takes as its reference, got none: choose a split of two cases or more"
            )
        return max(others, key=lambda other: digest(["reference", seed, ref.fingerprint, other.fingerprint]))

    @cached_property
    def references(self) -> str:
        """16 hex digits of all that `other` draws from: the content of the split's cases, in whatever order."""
        return digest(sorted(ref.fingerprint for ref in self.whole_split()))

    def listed_cases(self) -> int | None:
        """How many cases the split has by its list alone; None where nothing says that without the files."""
        return None

    def whole_split(self) -> tuple[CaseRef, ...]:
        """The cases of the split, whatever `cases` asks for."""
        return self.model_copy(update={"cases": None}).refs()

    def chosen(self, case_ids: Sequence[str]) -> Sequence[str]:
        """The ids of a split that `cases` leaves."""
        if self.cases is None:
            return case_ids
        if isinstance(self.cases, int):
            if self.cases > len(case_ids):
                raise DataError(
                    f"{self.name}: expected at most {len(case_ids)} `cases`, got {self.cases}: ask for fewer"
                )
            return case_ids[: self.cases]
        for number, case_id in enumerate(self.cases):
            if case_id not in case_ids:
                raise DataError(f"{self.name}: {unknown('case', case_id, case_ids)}")
            if case_id in self.cases[:number]:
                raise DataError(f"{self.name}: expected each of `cases` once, got {case_id!r} twice: remove one")
        return self.cases
