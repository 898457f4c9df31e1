"""Print the firewall of a virtual machine until the agent runs, for its image: nothing comes in from anywhere."""

from __future__ import annotations

import sys

from coffer_guest.firewall import Rules, Site, render

if __name__ == "__main__":
    sys.stdout.write(render(Rules(), [], [], Site(leases=True)))
