# SPDX-License-Identifier: Apache-2.0
"""How IRON is watched without being asked: after its modules are imported, their classes report what they dispatch.

Everything here is standard library alone, so that a program which never dispatches anything pays next to nothing.
"""
