"""Files of ``torch.save``: looked through opcode by opcode before torch reads them, and never run.

A `scan` follows the pickle in a file with plain data in the place of objects: no name in it is imported, no call in it
made, nothing allocated that the file does not hold. It admits dicts, lists, numbers, text and dense tensors whose
storages are in the file. Only what it admits goes to ``torch.load(weights_only=True)``.
"""

from ._machine import Dense as Dense
from ._machine import shown as shown
from ._scan import FILE_LIMIT as FILE_LIMIT
from ._scan import Scan as Scan
from ._scan import read_content as read_content
from ._scan import read_object as read_object
from ._scan import scan as scan
