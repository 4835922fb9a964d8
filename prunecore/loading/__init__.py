"""For loaders and tasks: code that the user named or trusts, weights in files, shapes of inputs. Nothing else is executed."""

from prunecore.loading.code import absolute, run_named
from prunecore.loading.contents import check_contents
from prunecore.loading.pickled import Allowed, globals_in, read_pickled
from prunecore.loading.remote import silence_limited
from prunecore.loading.trust import Trust, TrustOptions, UntrustedError, trusted_callable, trusted_path
from prunecore.loading.weights import example_inputs, load_weights, read_state_dict

__all__ = [
    "Allowed",
    "Trust",
    "TrustOptions",
    "UntrustedError",
    "absolute",
    "check_contents",
    "example_inputs",
    "globals_in",
    "load_weights",
    "read_pickled",
    "read_state_dict",
    "run_named",
    "silence_limited",
    "trusted_callable",
    "trusted_path",
]
