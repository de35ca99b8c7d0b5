"""What placement is measured against: workloads, traces, and how others would have placed the same requests.

Whatever others do (`bound`, `cut`, `fluid`, `nova`, `packing`, `slots`) knows nothing of esxprov.
"""
