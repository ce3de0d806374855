# The workspace members in the order in which they depend on each other; read by install.sh and check.sh.
MEMBERS=(libs/contracts libs/common libs/clave services/gateway services/registry services/features
         services/inference services/monitor services/trainer)
