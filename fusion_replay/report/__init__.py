# SPDX-License-Identifier: Apache-2.0
"""How results look: terminal text and JSON Lines. Nothing here judges anything."""
