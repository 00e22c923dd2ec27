package serving

import "github.com/churnstream/churnstream/internal/role"

// Role is the server as a part of a process.
var Role = role.Define(role.About{
	Name:    "serve",
	Title:   "Serving:",
	Help:    "Serve the REST endpoint and the web application.",
	Address: "127.0.0.1:8080",
	Detail: `Serves the customers at risk as a web application, and scores, explanations and what-if as REST; the endpoints are described at /openapi.json.

Example:
  churnstream serve --brokers kafka:9092 --registry http://registry:8081 --http 127.0.0.1:8080`,
}, func(on role.Dependencies, cfg Config) (role.Role, error) {
	cfg.Dependencies = on
	s, err := New(cfg)
	if err != nil {
		return nil, err
	}
	if on.Handlers != nil {
		on.Handlers["/"] = s.Handler()
	}
	return s, nil
})
