"""pyVmomi, untyped: it makes its classes at run time, and the types it ships describe too few of them."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim as _vim
from pyVmomi import vmodl as _vmodl
from pyVmomi.SoapAdapter import SoapStubAdapter as _SoapStubAdapter

vim: Any = _vim
vmodl: Any = _vmodl
SoapStubAdapter: Any = _SoapStubAdapter
