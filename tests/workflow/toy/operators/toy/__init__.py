"""A system of two files, to test the house with: is the mean of random numbers near one half?"""
