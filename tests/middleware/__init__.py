"""Tests of gateway/middleware/."""
