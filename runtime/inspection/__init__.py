"""From a saliency map to defects, and from defects to alarms."""
