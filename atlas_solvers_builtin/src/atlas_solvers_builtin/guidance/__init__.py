"""How the condition is amplified at sampling."""
