"""The sign-off: records of one image, judged under a policy, become one page, one signature and one
exit status.
"""
