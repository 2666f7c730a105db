"""The tracking plan and the names that Leanplum keeps."""
