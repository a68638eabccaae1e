"""Drivers: whatever performs a plan and reports what happened."""
