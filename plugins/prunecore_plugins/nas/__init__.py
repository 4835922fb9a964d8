"""Builders of the networks that architecture searches describe, by `algname`."""
