"""A pickle machine that makes descriptions: it knows what would be made, and makes nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torchbasics._files import Reason

STORAGES = {
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.BoolStorage": torch.bool,
    "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
    "torch.ShortStorage": torch.int16,
    "torch.storage.UntypedStorage": torch.uint8,  # bytes of a dtype without a storage class
}
DTYPES = {
    str(dtype): dtype for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64)
}
TENSORS = {  # the functions that make dense tensors, and how many arguments they take
    "torch._utils._rebuild_tensor": 4,
    "torch._utils._rebuild_tensor_v2": 6,
    "torch._utils._rebuild_tensor_v3": 7,
}
ODD = {  # those that make other tensors, and what these are
    "torch._tensor._rebuild_from_type_v2": "a subclass or with attributes",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "of another device",
    "torch._utils._rebuild_device_tensor_from_numpy": "of another device",
    "torch._utils._rebuild_meta_tensor_no_storage": "without values",
    "torch._utils._rebuild_parameter_with_state": "with attributes",
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_wrapper_subclass": "of a subclass",
}
TELLING = {  # what may stand as an argument, and is never called
    "torch.QInt32Storage", "torch.QInt8Storage", "torch.QUInt8Storage", "torch.Tensor", "torch.float16",
    "torch.float32", "torch.float64", "torch.nn.parameter.Parameter", "torch.per_channel_affine",
    "torch.per_tensor_affine",
}  # fmt: skip
PARAMETER = "torch._utils._rebuild_parameter"
ORDERED = "collections.OrderedDict"
VALUES: dict[str, type] = {  # harmless functions, and the type of their one argument
    "collections.Counter": dict,  # the milestones of a learning-rate schedule
    "torch.Size": tuple,
    "torch.device": str,
    "torch.serialization._get_layout": str,
}
KNOWN = {*STORAGES, *DTYPES, *TENSORS, *ODD, *TELLING, *VALUES, PARAMETER, ORDERED}

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
# Bytes that Python takes at most for what an opcode makes. A file of torch.save stays under BUDGET times the length of
# its pickle; one made to fill memory does not.
COSTS = {"EMPTY_DICT": 256, "REDUCE": 256, "NEWOBJ": 256, "EMPTY_LIST": 64, "MARK": 64, "TUPLE": 64}
COSTS |= {"TUPLE1": 64, "TUPLE2": 64, "TUPLE3": 64, "BINPERSID": 128}
BUDGET = 24
ITEM = 128  # the same, for each item of a dict or tuple that is made of another
# Integers are their own hashes, so that a dict of chosen ones is quadratic: large dicts have small ones only.
FEW, FEW_LIMIT, KEY_LIMIT = 1000, 2**60, 2**20


class Wrong(Exception):  # noqa: N818  # no error of the program
    """What a file is refused for."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle asks for; it is not imported."""

    name: str


def shown(value: Any) -> str:
    """Return what a message says of *value*, which a file's author chose: of all that may be endless, the type alone.

    A tuple that holds the same one twice, and so on, takes 150 bytes in a file and no memory, but has no end in words.
    """
    if isinstance(value, Global):
        value = value.name
    if type(value) is str:
        return repr(value if len(value) <= 100 else f"{value[:80]}...")
    if type(value) is int and abs(value) >= 2**64:
        return "a huge int"
    return repr(value) if value is None or type(value) in (bool, int, float) else type(value).__name__


@dataclass(frozen=True, slots=True)
class Storage:
    """Numbers that lie in the file under *key*."""

    key: str
    dtype: torch.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Dense:
    """A tensor whose elements lie in its storage, each at a place of its own."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Odd:
    """Any other tensor."""

    why: str


@dataclass(slots=True)
class Made:
    """An object of a class that the reader trusts."""

    name: str
    state: dict[Any, Any] = field(default_factory=dict)


class Ordered(dict[Any, Any]):
    """An OrderedDict."""

    __slots__ = ()


class Machine:
    """Follows a pickle, one opcode after another; each ``_do_`` is one of those in Python's ``pickletools``.

    Args:
        trusted: Names of classes that may be made without arguments.
        length: Bytes of the pickle; what it makes is bounded by them.
    """

    def __init__(self, trusted: frozenset[str], length: int) -> None:
        self.trusted = trusted
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.left = 1_000_000 + BUDGET * length

    def step(self, code: str, arg: Any) -> None:
        """Do what the opcode *code* says.

        Raises:
            Wrong: no file of tensors would say it.
            IndexError, KeyError, TypeError, ValueError: it makes no sense here.
        """
        self._take(COSTS.get(code, 0))
        if code in CONSTANTS:
            self.stack.append(CONSTANTS[code])
        elif code in LITERALS:
            self.stack.append(arg)
        else:
            action = getattr(self, f"_do_{code.lower()}", None)
            if action is None:
                text = f"is no state_dict that torch can read safely: its pickle has the opcode {code}"
                raise Wrong("unsupported", f"{text}, which torch.save does not write unless told to")
            action(arg)

    def _take(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise Wrong("too-large", "would take far more memory than the file has bytes")

    def _do_proto(self, arg: int) -> None:
        pass

    def _do_global(self, arg: str) -> None:
        name = dotted(arg)
        if name not in KNOWN and name not in self.trusted:
            raise Wrong("unsafe", f"asks to run {plain(name)[:100]}, which no state_dict does; it was not run")
        self.stack.append(Global(name))

    def _do_short_binstring(self, arg: str) -> None:
        self.stack.append(arg.encode("latin-1").decode())  # Python 2's text

    def _do_empty_dict(self, arg: None) -> None:
        self.stack.append({})

    def _do_empty_list(self, arg: None) -> None:
        self.stack.append([])

    def _do_mark(self, arg: None) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def _do_tuple(self, arg: None) -> None:
        items = self._marked()
        self.stack.append(tuple(items))

    def _do_tuple1(self, arg: None) -> None:
        self.stack[-1:] = [(self.stack[-1],)]

    def _do_tuple2(self, arg: None) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def _do_tuple3(self, arg: None) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def _do_append(self, arg: None) -> None:
        item = self.stack.pop()
        self._list().append(item)

    def _do_appends(self, arg: None) -> None:
        items = self._marked()
        self._list().extend(items)

    def _do_setitem(self, arg: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        put(self.stack[-1], key, value)

    def _do_setitems(self, arg: None) -> None:
        items = self._marked()
        for key, value in zip(items[::2], items[1::2], strict=True):
            put(self.stack[-1], key, value)

    def _do_binput(self, arg: int) -> None:
        if arg > len(self.memo) + 1:  # Python 2 counts from 1 on
            raise ValueError("it does not number its objects in order")
        self.memo[arg] = self.stack[-1]

    _do_long_binput = _do_binput

    def _do_binget(self, arg: int) -> None:
        self.stack.append(self.memo[arg])

    _do_long_binget = _do_binget

    def _do_binpersid(self, arg: None) -> None:
        kind, of, key, location, numel, *view = self.stack.pop()
        sound = kind == "storage" and type(key) is type(location) is str and type(numel) is int and numel >= 0
        if not sound or not isinstance(of, Global) or view not in ([], [None]):
            raise ValueError("a storage is not told in torch's way")
        if of.name not in STORAGES:
            raise Wrong("unsafe", f"holds values of {of.name}, which are no plain numbers")
        storage = Storage(key, STORAGES[of.name], numel)
        known = self.storages.setdefault(key, storage)
        if known != storage:
            raise ValueError(f"the storage {shown(key)} is told in two ways")
        self.stack.append(known)

    def _do_reduce(self, arg: None) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        if type(args) is not tuple or not isinstance(function, Global):
            raise ValueError("something is called that is no function")
        self.stack.append(self._called(function.name, args))

    def _do_newobj(self, arg: None) -> None:
        args, of = self.stack.pop(), self.stack.pop()
        if args != () or not isinstance(of, Global) or of.name not in self.trusted:
            raise Wrong("unsafe", f"makes an object of {shown(of)}, which no state_dict does")
        self.stack.append(Made(of.name))

    def _do_build(self, arg: None) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if type(state) is dict and isinstance(made, Made) and not made.state and all(type(key) is str for key in state):
            made.state.update(state)
        elif type(state) is not dict or type(made) is not Ordered or state.keys() - {"_metadata"}:
            raise Wrong("unsafe", f"sets attributes of {type(made).__name__}, which no state_dict does")

    def _do_stop(self, arg: None) -> None:
        if len(self.stack) != 1 or self.marked:
            raise ValueError("it ends in the middle")

    def _marked(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def _list(self) -> list[Any]:
        found = self.stack[-1]
        if type(found) is not list:
            raise ValueError(f"it appends to {type(found).__name__}")
        return found

    def _called(self, name: str, args: tuple[Any, ...]) -> Any:
        if name in TENSORS:
            return _tensor(name, args)
        if name in ODD:
            return Odd(ODD[name])
        if name == PARAMETER and len(args) == 3 and isinstance(args[0], Dense | Odd):
            return args[0]
        if name in VALUES and [type(arg) for arg in args] == [VALUES[name]]:
            self._take(ITEM * len(args[0]))  # torch makes a copy
            return args[0]
        if name == ORDERED and (not args or [type(arg) for arg in args] == [list]):
            self._take(ITEM * len(args[0]) if args else 0)
            made = Ordered()
            for key, value in args[0] if args else ():  # Python 2's way
                put(made, key, value)
            return made
        raise Wrong("unsafe", f"asks to run {name}, which no state_dict does; it was not run")


def dotted(arg: str) -> str:
    """Return the full name that the argument of GLOBAL, "module name", stands for."""
    return arg.replace(" ", ".", 1)


def plain(name: str) -> str:
    """Return *name* without what a terminal would take for a command."""
    return ascii(name)[1:-1]


def put(target: Any, key: Any, value: Any) -> None:
    """Set ``target[key]``, of a dict and with a key that is quick to look up."""
    if type(target) not in (dict, Ordered) or type(key) not in (str, int):
        raise ValueError(f"it sets an item of {type(target).__name__} by {type(key).__name__}")
    if type(key) is int and abs(key) >= (FEW_LIMIT if len(target) < FEW else KEY_LIMIT):
        raise ValueError(f"it has the key {shown(key)}")
    target[key] = value


def _tensor(name: str, args: tuple[Any, ...]) -> Dense | Odd:
    if len(args) == TENSORS[name] + 1 and type(args[-1]) is dict:
        return Odd("conjugated, negated or with attributes")
    if len(args) != TENSORS[name] or not isinstance(args[0], Storage):
        raise ValueError("a tensor is not told in torch's way")
    storage, offset, shape, stride, *rest = args
    sound = type(shape) is type(stride) is tuple and len(shape) == len(stride) <= 64
    if not sound or any(type(n) is not int or not 0 <= n < 2**48 for n in (offset, *shape, *stride)):
        return Odd("of an impossible shape")
    if rest and (type(rest[0]) is not bool or type(rest[1]) is not Ordered or rest[1]):
        raise Wrong("unsafe", "holds a tensor with hooks, which no state_dict does")
    dtype = storage.dtype if len(rest) < 3 else DTYPES.get(getattr(rest[2], "name", ""))
    if dtype is None:
        raise ValueError("a tensor has no dtype")
    numel, end = math.prod(shape), offset
    for size, step in sorted(zip(shape, stride, strict=True), key=lambda pair: pair[1]):
        if numel and size > 1:
            if step <= end - offset:
                return Odd("one whose elements share places")
            end += (size - 1) * step
    if numel and (end + 1) * dtype.itemsize > storage.nbytes:
        return Odd("one that reaches beyond its storage")
    return Dense(dtype, shape, numel * dtype.itemsize)
