"""The measured answer to what running costs do, from a plan: see PLAN.md and EVIDENCE.md."""
