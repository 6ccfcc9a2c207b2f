"""The bandit as verifiers, for a server's `verifier_packages`."""
