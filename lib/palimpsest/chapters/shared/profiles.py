"""The profiles by name."""


def choose(profile: str, settings: dict):
    """`settings[profile]`, or a ValueError that lists the profiles this experiment has."""
    if profile not in settings:
        raise ValueError(f"profile: got {profile!r}, want one of {list(settings)}")
    return settings[profile]
