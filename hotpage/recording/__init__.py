# SPDX-License-Identifier: Apache-2.0
"""One session, from the kernel's events to a profile: drives capture, heat and profile, and the arming of
pages.
"""
