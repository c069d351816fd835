# frozen_string_literal: true

server "web1.example.com", user: "deploy", roles: %w[app web]
server "worker1.example.com", user: "deploy", roles: %w[app worker]
server "worker2.example.com", user: "deploy", roles: %w[app worker]
