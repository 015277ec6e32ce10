"""What float16 needs: loss scaling.

May import system and optimizers.
"""
