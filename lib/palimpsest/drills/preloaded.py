"""What the subjects of the drill of kills import."""

import palimpsest.chapters.jscds.experiment
import palimpsest.chapters.shared.study
import palimpsest.commands.main
import palimpsest.decoding.drop_in
import palimpsest.drills.subjects
import palimpsest.unlearning.language.drop_in  # noqa: F401
