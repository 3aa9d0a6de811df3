"""A scene and the splats made of it: read, rendered and judged without torch."""
