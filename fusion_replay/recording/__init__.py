# SPDX-License-Identifier: Apache-2.0
"""A recording under way: what is kept, how steps are watched and timed, how programs are recorded from outside."""
