# SPDX-License-Identifier: Apache-2.0
"""Heat: from accesses and silence to each page's access rate; table.py shows how the parts fit together."""
