"""The console at `/console`: pages for operators and support engineers, rendered on the server.

- `sessions`: who is signed in, in the database
- `access`: authentication of pages and operations, protection against forged requests
- `forms`: the fields of a form that was sent
- `routes`: routes whose errors are pages
- `pages`: templates, and the headers of every page
- `navigation`: the table of pages
- `poller`, `streams`: reading of what changes, once for all who look; server-sent events
- `gateway_state`, `attention`: what the overview shows, and what needs a person's attention
- `tail`: the last items that were accepted and settled
- `fields`: the values of form fields and queries
- `sign_in`, `overview`, `find`, `live`, `dead_letters`, `keys`, `audit`: one module for each page,
  with its templates in `templates/`
- `tracking_plan`, `preview`, `unknown`: likewise; the last one is for other addresses
"""
