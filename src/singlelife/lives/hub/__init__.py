"""Prepared lives on the Hub: pushed, downloaded, looked at."""
