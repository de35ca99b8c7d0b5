"""What placement is measured against: workloads, traces, and how others would have placed the same requests.

Nothing here but `ours` imports esxprov: it is the other side of the comparison.
"""
