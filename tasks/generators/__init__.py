"""Stages that make rows, one file or folder a method."""
