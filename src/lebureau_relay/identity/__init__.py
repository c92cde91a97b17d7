"""Who a credential is, and whether upstream still takes it.

    rules     what the register is told by settings
    asking    one question to upstream, and the closed set of its answers
    gate      how many unknown credentials may be asked about, so that their 401s stay few
    register  the verdicts themselves, shared questions, and the rechecks of live credentials

Sharing one upstream among many connections turns every mistake in here into a data leak, so the
package has one door: the Register.
"""

from lebureau_relay.identity.register import Register
from lebureau_relay.identity.rules import AuthRules

__all__ = ["AuthRules", "Register"]
